// Sum of the active decoder rows of each token, and its gradient in the values.
#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {
namespace {

void sparse_decode(const TensorView& values, const TensorView& indices, const TensorView& offsets, const TensorView& w,
                   const TensorView& bias, const TensorView& out, int threads) {
  const Code code = with_values({values, indices, offsets});
  const Weights weights = w.weights("w");
  kernels().sparse_decode(code, weights, bias.of<float>("bias", {weights.d}),
                          out.of<float>("out", {code.n, weights.d}), threads);
}

void gather_dot(const TensorView& indices, const TensorView& offsets, const TensorView& w, const TensorView& g,
                double scale, const TensorView& out, int threads) {
  const Code code = without_values({{}, indices, offsets});
  const Weights weights = w.weights("w");
  kernels().gather_dot(code, weights, g.of<float>("g", {code.n, weights.d}), float(scale),
                       out.at_least<float>("out", code.offsets[code.n]), threads);
}

}  // namespace

void register_sparse_decode(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("sparse_decode", &sparse_decode, py::kw_only(), py::arg("values"), py::arg("indices"), py::arg("offsets"),
        py::arg("w"), py::arg("bias"), py::arg("out"), py::arg("threads"), NoGil());
  m.def("gather_dot", &gather_dot, py::kw_only(), py::arg("indices"), py::arg("offsets"), py::arg("w"), py::arg("g"),
        py::arg("scale"), py::arg("out"), py::arg("threads"), NoGil());
}

}  // namespace ms::bindings
