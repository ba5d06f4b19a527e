// New directions for dead features.
#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {
namespace {

void resample(const TensorView& w_enc, const TensorView& w_dec, const TensorView& b_enc, const TensorView& chosen,
              const TensorView& inputs, const TensorView& alive, double factor, int threads) {
  const int64_t features = w_dec.rows("w_dec"), d = w_dec.columns("w_dec"), n = chosen.count();
  const int64_t* c = chosen.of<int64_t>("features", {n});
  for (int64_t i = 0; i < n; ++i) require(c[i] >= 0 && c[i] < features, "features: not all are rows of w_dec");
  kernels().resample(w_enc.of<float>("w_enc", {features, d}), w_dec.of<float>("w_dec", {features, d}),
                     b_enc.of<float>("b_enc", {features}), features, d, c, n, inputs.of<float>("inputs", {n, d}),
                     alive.of<uint8_t>("alive", {features}), float(factor), threads);
}

}  // namespace

void register_resample(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("resample", &resample, py::kw_only(), py::arg("w_enc"), py::arg("w_dec"), py::arg("b_enc"),
        py::arg("features"), py::arg("inputs"), py::arg("alive"), py::arg("factor"), py::arg("threads"), NoGil());
}

}  // namespace ms::bindings
