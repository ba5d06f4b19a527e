// Gradient rows of all features, and sums of coefficients by feature.
#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {
namespace {

void row_grad(const SortedCodeView& code, const TensorView& coef, const TensorView& u, const TensorView& out,
              int threads) {
  const int64_t tokens = u.rows("u"), d = u.columns("u");
  kernels().row_grad(checked(code, coef.count(), tokens), coef.at_least<float>("coef", 0),
                     u.of<float>("u", {tokens, d}), d, out.of<float>("out", {code.features(), d}), threads);
}

void feature_sum(const TensorView& starts, const TensorView& entries, const TensorView& coef, const TensorView& out,
                 int threads) {
  const SortedCodeView code{starts, entries, {}};
  kernels().feature_sum(checked(code, coef.count()), coef.at_least<float>("coef", 0),
                        out.of<float>("out", {code.features()}), threads);
}

}  // namespace

void register_row_grad(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("row_grad", &row_grad, py::kw_only(), py::arg("code"), py::arg("coef"), py::arg("u"), py::arg("out"),
        py::arg("threads"), NoGil());
  m.def("feature_sum", &feature_sum, py::kw_only(), py::arg("starts"), py::arg("entries"), py::arg("coef"),
        py::arg("out"), py::arg("threads"), NoGil());
}

}  // namespace ms::bindings
