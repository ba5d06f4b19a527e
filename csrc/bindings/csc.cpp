// A code's entries sorted by feature, and the checks of a sorted code.
#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {
namespace {

void csc(const TensorView& indices, const TensorView& offsets, int64_t features, const SortedCodeView& out,
         int threads) {
  const Code code = without_values({{}, indices, offsets});
  const int64_t entries = code.offsets[code.n];
  ms::csc(code.indices, code.offsets, code.n, features, out.starts.of<int64_t>("starts", {features + 1}),
          out.entries.at_least<int64_t>("entries", entries), out.tokens.at_least<int32_t>("tokens", entries), threads);
}

Csc checked_entries(const SortedCodeView& s, int64_t coefs) {
  const int64_t features = s.features();
  const int64_t* starts = s.starts.of<int64_t>("starts", {features + 1});
  bool ascending = starts[0] >= 0;
  for (int64_t f = 0; f < features; ++f) ascending &= starts[f] <= starts[f + 1];
  require(ascending, "starts: not ascending from 0; make it with monosem.ops.csc");
  const int64_t* entries = s.entries.at_least<int64_t>("entries", starts[features]);
  bool inside = true;
  for (int64_t i = starts[0]; i < starts[features]; ++i) inside &= entries[i] >= 0 && entries[i] < coefs;
  require(inside, "entries: not all have a coefficient; make them with monosem.ops.csc of the code that coef is of");
  return {starts, entries, nullptr, features};
}

}  // namespace

Csc checked(const SortedCodeView& s, int64_t coefs) { return checked_entries(s, coefs); }

Csc checked(const SortedCodeView& s, int64_t coefs, int64_t rows) {
  Csc code = checked_entries(s, coefs);
  const int64_t begin = code.starts[0], end = code.starts[code.features];
  code.tokens = s.tokens.at_least<int32_t>("tokens", end);
  bool inside = true;
  for (int64_t i = begin; i < end; ++i) inside &= code.tokens[i] >= 0 && code.tokens[i] < rows;
  require(inside, "tokens: not all are rows of u; make them with monosem.ops.csc of the code of these tokens");
  return code;
}

void register_csc(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("csc", &csc, py::kw_only(), py::arg("indices"), py::arg("offsets"), py::arg("features"), py::arg("out"),
        py::arg("threads"), NoGil());
}

}  // namespace ms::bindings
