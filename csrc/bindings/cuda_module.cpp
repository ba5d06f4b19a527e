// Python module monosem._cuda: raw addresses, sizes and the stream as integers, so that it needs no headers of PyTorch.
// The Python side (ops/<stem>/cuda.py) checks shapes, dtypes and layout, and owns all memory.
#include <pybind11/pybind11.h>

#include "../cuda/kernels.h"

namespace py = pybind11;
using Address = uintptr_t;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

cudaStream_t on(Address stream) { return at<std::remove_pointer_t<cudaStream_t>>(stream); }

ms::Weights weights(Address data, int dtype, int64_t d) { return {at<const void>(data), ms::Dtype(dtype), d}; }

ms::Code code(Address values, Address indices, Address offsets, int64_t n) {
  return {at<const float>(values), at<const int32_t>(indices), at<const int64_t>(offsets), n};
}

ms::Csc csc_view(Address starts, Address entries, Address tokens, int64_t features) {
  return {at<const int64_t>(starts), at<const int64_t>(entries), at<const int32_t>(tokens), features};
}

ms::RowSum row_sum(Address coef, Address u, int64_t d, int cut_bits) {
  return {at<const float>(coef), at<const float>(u), d, nullptr, cut_bits, nullptr, nullptr};
}

ms::Moments moments(Address m, Address v, int dtype) {
  return {at<void>(m), at<void>(v), ms::Dtype(dtype), nullptr, nullptr};
}

ms::EncoderCopy encoder_copy(Address data, Address norms, int64_t stride) {
  return {at<ms::bf16>(data), at<float>(norms), stride};
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "monosem's CUDA kernels; call them through monosem.ops";
  const auto nogil = py::call_guard<py::gil_scoped_release>();
  namespace cuda = ms::cuda;

  m.def("sparse_decode",
        [](Address v, Address i, Address o, int64_t n, Address w, int dtype, int64_t d, Address b, Address out,
           int threads, Address stream) {
          cuda::sparse_decode(code(v, i, o, n), weights(w, dtype, d), at<const float>(b), at<float>(out), threads,
                              on(stream));
        }, nogil);
  m.def("gather_dot",
        [](Address i, Address o, int64_t n, Address w, int dtype, int64_t d, Address g, double scale, Address out,
           Address stream) {
          cuda::gather_dot(code(0, i, o, n), weights(w, dtype, d), at<const float>(g), float(scale), at<float>(out),
                           on(stream));
        }, nogil);
  m.def("decode_loss",
        [](Address v, Address i, Address o, int64_t n, int64_t nnz, Address w, int dtype, int64_t d, Address b,
           Address x, Address loss, Address residual, Address slopes, int threads, Address stream) {
          cuda::decode_loss(code(v, i, o, n), nnz, weights(w, dtype, d), at<const float>(b), at<const float>(x),
                            at<float>(loss), at<float>(residual), at<float>(slopes), threads, on(stream));
        }, nogil);
  m.def("csc_workspace", &cuda::csc_workspace);
  m.def("csc",
        [](Address i, Address o, int64_t n, int64_t nnz, int64_t features, Address starts, Address entries,
           Address tokens, Address workspace, Address stream) {
          cuda::csc(code(0, i, o, n), nnz, features, at<int64_t>(starts),
                    at<int64_t>(entries), at<int32_t>(tokens), at<int32_t>(workspace), on(stream));
        }, nogil);
  m.def("row_grad",
        [](Address s, Address e, Address t, int64_t features, int64_t nnz, Address coef, Address u, int64_t d,
           int cut_bits, Address pieces, Address out, int threads, Address stream) {
          cuda::row_grad(csc_view(s, e, t, features), row_sum(coef, u, d, cut_bits), nnz, at<float>(pieces), at<float>(out),
                         threads, on(stream));
        }, nogil);
  m.def("feature_sum",
        [](Address s, Address e, int64_t features, Address coef, Address out, Address stream) {
          cuda::feature_sum(csc_view(s, e, 0, features), at<const float>(coef), at<float>(out), on(stream));
        }, nogil);
  m.def("row_adam",
        [](Address w, Address mom, Address v, int state, Address copy, Address norms, int64_t width, Address g,
           int64_t rows, int64_t d, double lr, double b1, double b2, double eps, int64_t step, bool unit, bool lazy,
           Address live, int threads, Address stream) {
          cuda::row_adam(at<float>(w), rows, moments(mom, v, state), encoder_copy(copy, norms, width), at<const float>(g), d,
                         {lr, b1, b2, eps, step, unit, lazy}, at<const ms::AdamFactors>(live), threads, on(stream));
        }, nogil);
  m.def("row_grad_adam",
        [](Address w, Address mom, Address v, int state, Address copy, Address norms, int64_t width, Address s, Address e,
           Address t, int64_t features, int64_t nnz, Address coef, Address u, int64_t d, int cut_bits, Address pieces,
           double scale, double lr, double b1, double b2, double eps, int64_t step, bool unit, bool lazy, Address live,
           int threads, Address stream) {
          cuda::row_grad_adam(at<float>(w), moments(mom, v, state), encoder_copy(copy, norms, width),
                              csc_view(s, e, t, features), row_sum(coef, u, d, cut_bits), nnz, at<float>(pieces),
                              float(scale), {lr, b1, b2, eps, step, unit, lazy}, at<const ms::AdamFactors>(live), threads,
                              on(stream));
        }, nogil);
  m.def("encoder_grad_adam",
        [](Address w, Address mom, Address v, int state, Address copy, Address norms, int64_t width, Address s, Address e,
           Address t, int64_t features, int64_t nnz, Address coef, Address bias, Address u, int64_t d, int cut_bits,
           Address pieces, Address totals, Address bias_sums, Address weighted, int together, double lr, double b1,
           double b2, double eps, int64_t step, bool lazy, Address live, int threads, Address stream) {
          ms::RowSum sum = row_sum(coef, u, d, cut_bits);
          sum.bias = at<const float>(bias);
          cuda::encoder_grad_adam(at<float>(w), moments(mom, v, state), encoder_copy(copy, norms, width),
                                  csc_view(s, e, t, features), sum, nnz, at<float>(pieces), at<double>(totals),
                                  {at<float>(bias_sums), at<float>(weighted), together}, {lr, b1, b2, eps, step, false, lazy},
                                  at<const ms::AdamFactors>(live), threads, on(stream));
        }, nogil);
  m.def("resample_workspace", &cuda::resample_workspace);
  m.def("resample",
        [](Address w_enc, Address w_dec, Address b_enc, int64_t features, int64_t d, Address chosen, int64_t n,
           Address inputs, Address alive, double factor, Address workspace, Address stream) {
          cuda::resample(at<float>(w_enc), at<float>(w_dec), at<float>(b_enc), features, d, at<const int64_t>(chosen),
                         n, at<const float>(inputs), at<const uint8_t>(alive), float(factor), at<double>(workspace),
                         on(stream));
        }, nogil);
}
