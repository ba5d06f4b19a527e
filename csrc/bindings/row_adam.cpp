// Adam on weight rows, whose gradient is given or reduced on the way.
#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {
namespace {

void row_adam(const TensorView& w, const MomentsView& moments, const TensorView& g, const AdamStepView& step,
              int threads) {
  const int64_t rows = w.rows("w"), d = w.columns("w");
  kernels().row_adam(w.of<float>("w", {rows, d}), moments.of(rows, d), g.of<float>("g", {rows, d}), rows, d,
                     step.of(rows, d), threads);
}

void row_grad_adam(const TensorView& w, const MomentsView& moments, const SortedCodeView& code, const TensorView& coef,
                   const TensorView& u, double scale, const AdamStepView& step, const TensorView& bias,
                   const TensorView& sums, const TensorView& weighted, int threads) {
  const int64_t features = code.features(), tokens = u.rows("u"), d = u.columns("u");
  BiasSums of_bias;
  require(bias || !(sums || weighted), "bias: wanted with sums and weighted");
  if (bias)
    of_bias = {bias.at_least<float>("bias", coef.count()), sums.of<float>("sums", {features}),
               weighted.of<float>("weighted", {d})};
  kernels().row_grad_adam(w.of<float>("w", {features, d}), moments.of(features, d),
                          checked(code, coef.count(), tokens), coef.at_least<float>("coef", 0),
                          u.of<float>("u", {tokens, d}), d, float(scale), step.of(features, d), of_bias, threads);
}

}  // namespace

void register_row_adam(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("row_adam", &row_adam, py::kw_only(), py::arg("w"), py::arg("moments"), py::arg("g"), py::arg("step"),
        py::arg("threads"), NoGil());
  m.def("row_grad_adam", &row_grad_adam, py::kw_only(), py::arg("w"), py::arg("moments"), py::arg("code"),
        py::arg("coef"), py::arg("u"), py::arg("scale"), py::arg("step"), py::arg("bias"), py::arg("sums"),
        py::arg("weighted"), py::arg("threads"), NoGil());
}

}  // namespace ms::bindings
