// What the entries of a code are.
#include <pybind11/stl.h>

#include <tuple>

#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {
namespace {

std::tuple<int32_t, int32_t, bool> code_range(const TensorView& indices, int64_t entries, const TensorView& offsets) {
  const int64_t n = offsets.count() - 1;
  if (n < 0) TensorView::refuse("offsets", "0 elements", "tokens + 1");
  const CodeRange range = ms::code_range(indices.at_least<int32_t>("indices", entries), entries,
                                         offsets.of<int64_t>("offsets", {n + 1}), n);
  return {range.least, range.most, range.ascends};
}

std::tuple<double, int64_t> code_sums(const TensorView& values, const TensorView& indices, int64_t features,
                                      const TensorView& fired) {
  const int64_t entries = values.count();
  const CodeSums sums = ms::code_sums(values.of<float>("values", {entries}), indices.of<int32_t>("indices", {entries}),
                                      entries, features, fired.of<uint8_t>("fired", {features}));
  return {sums.size, sums.active};
}

}  // namespace

void register_code(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("code_range", &code_range, py::kw_only(), py::arg("indices"), py::arg("entries"), py::arg("offsets"), NoGil(),
        "the least and the largest of the first entries' features (0 and −1 of none), and whether offsets ascend");
  m.def("code_sums", &code_sums, py::kw_only(), py::arg("values"), py::arg("indices"), py::arg("features"),
        py::arg("fired"), NoGil(), "the sum of |value| and how many are not 0; marks their features");
}

}  // namespace ms::bindings
