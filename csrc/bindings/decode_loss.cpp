// Decode, residual, loss and the slope of each value.
#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {
namespace {

void decode_loss(const TensorView& values, const TensorView& indices, const TensorView& offsets, const TensorView& w,
                 const TensorView& bias, const TensorView& x, const TensorView& loss, const TensorView& residual,
                 const TensorView& slopes, int threads) {
  const Code code = with_values({values, indices, offsets});
  const Weights weights = w.weights("w");
  const int64_t d = weights.d;
  kernels().decode_loss(code, weights, bias.of<float>("bias", {d}), x.of<float>("x", {code.n, d}),
                        loss.of<float>("loss", {code.n}), residual.of<float>("residual", {code.n, d}),
                        slopes.at_least<float>("slopes", code.offsets[code.n]), threads);
}

}  // namespace

void register_decode_loss(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("decode_loss", &decode_loss, py::kw_only(), py::arg("values"), py::arg("indices"), py::arg("offsets"),
        py::arg("w"), py::arg("bias"), py::arg("x"), py::arg("loss"), py::arg("residual"), py::arg("slopes"),
        py::arg("threads"), NoGil());
}

}  // namespace ms::bindings
