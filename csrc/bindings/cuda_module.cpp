// Python module monosem._cuda: the CUDA kernels. Tensors come as checked views (tensor.h) and the stream as an integer, so
// that no headers of PyTorch are needed. Nothing here reads memory of the GPU: numbers in a tensor are not checked.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "../cuda/kernels.h"
#include "structs.h"
#include "tensor.h"

namespace py = pybind11;

namespace ms {

void check_device(py::handle tensor, const char* name) {
#ifdef MS_EMULATED
  const char* const on_device = "is_cpu";
#else
  const char* const on_device = "is_cuda";
#endif
  if (!tensor.attr(on_device).cast<bool>())
    TensorView::refuse(name, "a tensor on " + std::string(py::str(tensor.attr("device"))), "one on a CUDA device");
}

namespace cuda {
namespace {

using Stream = uintptr_t;

cudaStream_t on(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }

Code code_of(const TensorView& values, const TensorView& indices, const TensorView& offsets) {
  const int64_t n = CodeView{values, indices, offsets}.tokens(), nnz = indices.count();
  return {values ? values.at_least<float>("values", nnz) : nullptr, indices.at_least<int32_t>("indices", nnz),
          offsets.of<int64_t>("offsets", {n + 1}), n};
}

Csc csc_of(const SortedCodeView& s) {
  const int64_t features = s.features(), nnz = s.entries.count();
  return {s.starts.of<int64_t>("starts", {features + 1}), s.entries.at_least<int64_t>("entries", nnz),
          s.tokens ? s.tokens.at_least<int32_t>("tokens", nnz) : nullptr, features};
}

// `pieces`: room for the sums of pieces of 2^cut_bits entries, or None.
float* room_of(const TensorView& pieces, int64_t nnz, int cut_bits, int64_t d) {
  return pieces ? pieces.of<float>("pieces", {nnz >> cut_bits, d}) : nullptr;
}

RowSum row_sum(const TensorView& coef, int64_t nnz, const TensorView& u, int cut_bits) {
  const int64_t tokens = u.rows("u"), d = u.columns("u");
  return {coef.at_least<float>("coef", nnz), u.of<float>("u", {tokens, d}), d, nullptr, cut_bits, nullptr, nullptr};
}

EncoderCopy copy_of(const EncoderCopyView& copy, int64_t rows, int64_t d) {
  if (!copy.rows) return {nullptr, nullptr, 0};
  const int64_t stride = copy.rows.columns("copy");
  if (stride < d) TensorView::refuse("copy", std::to_string(stride) + " columns", "at least " + std::to_string(d));
  return {copy.rows.of<bf16>("copy", {rows, stride}), copy.norms.of<float>("norms", {2, rows}), stride};
}

const AdamFactors* live_of(const AdamStepView& step) {
  static_assert(sizeof(AdamFactors) == 8 * sizeof(float));
  return step.live ? reinterpret_cast<const AdamFactors*>(step.live.of<float>("live", {8})) : nullptr;
}

}  // namespace

void bind_sparse_decode(py::module_& m) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  m.def("sparse_decode",
        [](const TensorView& values, const TensorView& indices, const TensorView& offsets, const TensorView& w,
           const TensorView& bias, const TensorView& out, int threads, Stream stream) {
          const Code code = code_of(values, indices, offsets);
          const Weights weights = w.weights("w");
          sparse_decode(code, weights, bias.of<float>("bias", {weights.d}), out.of<float>("out", {code.n, weights.d}),
                        threads, on(stream));
        },
        py::kw_only(), py::arg("values"), py::arg("indices"), py::arg("offsets"), py::arg("w"), py::arg("bias"),
        py::arg("out"), py::arg("threads"), py::arg("stream"), NoGil());
  m.def("gather_dot",
        [](const TensorView& indices, const TensorView& offsets, const TensorView& w, const TensorView& g,
           double scale, const TensorView& out, Stream stream) {
          const Code code = code_of({}, indices, offsets);
          const Weights weights = w.weights("w");
          gather_dot(code, weights, g.of<float>("g", {code.n, weights.d}), float(scale),
                     out.at_least<float>("out", indices.count()), on(stream));
        },
        py::kw_only(), py::arg("indices"), py::arg("offsets"), py::arg("w"), py::arg("g"), py::arg("scale"),
        py::arg("out"), py::arg("stream"), NoGil());
  m.def("decode_loss",
        [](const TensorView& values, const TensorView& indices, const TensorView& offsets, const TensorView& w,
           const TensorView& bias, const TensorView& x, const TensorView& loss, const TensorView& residual,
           const TensorView& slopes, int threads, Stream stream) {
          const Code code = code_of(values, indices, offsets);
          const Weights weights = w.weights("w");
          const int64_t d = weights.d, nnz = indices.count();
          decode_loss(code, nnz, weights, bias.of<float>("bias", {d}), x.of<float>("x", {code.n, d}),
                      loss.of<float>("loss", {code.n}), residual.of<float>("residual", {code.n, d}),
                      slopes.at_least<float>("slopes", nnz), threads, on(stream));
        },
        py::kw_only(), py::arg("values"), py::arg("indices"), py::arg("offsets"), py::arg("w"), py::arg("bias"),
        py::arg("x"), py::arg("loss"), py::arg("residual"), py::arg("slopes"), py::arg("threads"), py::arg("stream"),
        NoGil());
}

void bind_row_grad(py::module_& m) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  m.def("csc_workspace", &csc_workspace, py::arg("nnz"), py::arg("features"));
  m.def("csc",
        [](const TensorView& indices, const TensorView& offsets, int64_t features, const SortedCodeView& out,
           const TensorView& workspace, Stream stream) {
          const int64_t nnz = indices.count();
          csc(code_of({}, indices, offsets), nnz, features, out.starts.of<int64_t>("starts", {features + 1}),
              out.entries.of<int64_t>("entries", {nnz}), out.tokens.of<int32_t>("tokens", {nnz}),
              workspace.at_least<int32_t>("workspace", csc_workspace(nnz, features)), on(stream));
        },
        py::kw_only(), py::arg("indices"), py::arg("offsets"), py::arg("features"), py::arg("out"),
        py::arg("workspace"), py::arg("stream"), NoGil());
  m.def("row_grad",
        [](const SortedCodeView& code, const TensorView& coef, const TensorView& u, int cut_bits,
           const TensorView& pieces, const TensorView& out, int threads, Stream stream) {
          const Csc csc = csc_of(code);
          const int64_t nnz = code.entries.count();
          const RowSum sum = row_sum(coef, nnz, u, cut_bits);
          row_grad(csc, sum, nnz, room_of(pieces, nnz, cut_bits, sum.d), out.of<float>("out", {csc.features, sum.d}),
                   threads, on(stream));
        },
        py::kw_only(), py::arg("code"), py::arg("coef"), py::arg("u"), py::arg("cut_bits"), py::arg("pieces"),
        py::arg("out"), py::arg("threads"), py::arg("stream"), NoGil());
  m.def("feature_sum",
        [](const TensorView& starts, const TensorView& entries, const TensorView& coef, const TensorView& out,
           Stream stream) {
          const Csc csc = csc_of({starts, entries, {}});
          feature_sum(csc, coef.at_least<float>("coef", entries.count()), out.of<float>("out", {csc.features}),
                      on(stream));
        },
        py::kw_only(), py::arg("starts"), py::arg("entries"), py::arg("coef"), py::arg("out"), py::arg("stream"),
        NoGil());
}

void bind_row_adam(py::module_& m) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  m.def("row_adam",
        [](const TensorView& w, const MomentsView& moments, const EncoderCopyView& copy, const TensorView& g,
           const AdamStepView& step, int threads, Stream stream) {
          const int64_t rows = w.rows("w"), d = w.columns("w");
          row_adam(w.of<float>("w", {rows, d}), rows, moments.of(rows, d), copy_of(copy, rows, d),
                   g.of<float>("g", {rows, d}), d, step.of(rows, d), live_of(step), threads, on(stream));
        },
        py::kw_only(), py::arg("w"), py::arg("moments"), py::arg("copy"), py::arg("g"), py::arg("step"),
        py::arg("threads"), py::arg("stream"), NoGil());
  m.def("row_grad_adam",
        [](const TensorView& w, const MomentsView& moments, const EncoderCopyView& copy, const SortedCodeView& code,
           const TensorView& coef, const TensorView& u, int cut_bits, const TensorView& pieces, double scale,
           const AdamStepView& step, int threads, Stream stream) {
          const Csc csc = csc_of(code);
          const int64_t nnz = code.entries.count(), features = csc.features;
          const RowSum sum = row_sum(coef, nnz, u, cut_bits);
          row_grad_adam(w.of<float>("w", {features, sum.d}), moments.of(features, sum.d),
                        copy_of(copy, features, sum.d), csc, sum, nnz, room_of(pieces, nnz, cut_bits, sum.d),
                        float(scale), step.of(features, sum.d), live_of(step), threads, on(stream));
        },
        py::kw_only(), py::arg("w"), py::arg("moments"), py::arg("copy"), py::arg("code"), py::arg("coef"),
        py::arg("u"), py::arg("cut_bits"), py::arg("pieces"), py::arg("scale"), py::arg("step"), py::arg("threads"),
        py::arg("stream"), NoGil());
  m.def("encoder_grad_adam",
        [](const TensorView& w, const MomentsView& moments, const EncoderCopyView& copy, const SortedCodeView& code,
           const TensorView& coef, const TensorView& bias, const TensorView& u, int cut_bits, const TensorView& pieces,
           const TensorView& totals, const TensorView& sums, const TensorView& weighted, int together,
           const AdamStepView& step, int threads, Stream stream) {
          const Csc csc = csc_of(code);
          const int64_t nnz = code.entries.count(), features = csc.features;
          RowSum sum = row_sum(coef, nnz, u, cut_bits);
          sum.bias = bias.at_least<float>("bias", nnz);
          const EncoderSums out{sums.of<float>("sums", {features}),
                                weighted.of<float>("weighted", {(features + together - 1) / together, sum.d}), together};
          double* bias_totals = totals ? totals.of<double>("totals", {nnz >> cut_bits}) : nullptr;
          encoder_grad_adam(w.of<float>("w", {features, sum.d}), moments.of(features, sum.d),
                            copy_of(copy, features, sum.d), csc, sum, nnz, room_of(pieces, nnz, cut_bits, sum.d),
                            bias_totals, out, step.step, live_of(step), threads, on(stream));
        },
        py::kw_only(), py::arg("w"), py::arg("moments"), py::arg("copy"), py::arg("code"), py::arg("coef"),
        py::arg("bias"), py::arg("u"), py::arg("cut_bits"), py::arg("pieces"), py::arg("totals"), py::arg("sums"),
        py::arg("weighted"), py::arg("together"), py::arg("step"), py::arg("threads"), py::arg("stream"), NoGil());
}

void bind_resample(py::module_& m) {
  m.def("resample_workspace", &resample_workspace);
  m.def("resample",
        [](const TensorView& w_enc, const TensorView& w_dec, const TensorView& b_enc, const TensorView& chosen,
           const TensorView& inputs, const TensorView& alive, double factor, const TensorView& workspace,
           Stream stream) {
          const int64_t features = w_dec.rows("w_dec"), d = w_dec.columns("w_dec"), n = chosen.count();
          resample(w_enc.of<float>("w_enc", {features, d}), w_dec.of<float>("w_dec", {features, d}),
                   b_enc.of<float>("b_enc", {features}), features, d, chosen.of<int64_t>("features", {n}), n,
                   inputs.of<float>("inputs", {n, d}), alive.of<uint8_t>("alive", {features}), float(factor),
                   workspace.at_least<double>("workspace", resample_workspace()), on(stream));
        },
        py::kw_only(), py::arg("w_enc"), py::arg("w_dec"), py::arg("b_enc"), py::arg("features"), py::arg("inputs"),
        py::arg("alive"), py::arg("factor"), py::arg("workspace"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace cuda
}  // namespace ms

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "monosem's CUDA kernels; call them through monosem.ops";
  m.attr("interface") = 2;  // raised when a call changes, so that an older build is refused (ops/gpu.py)
  ms::cuda::bind_sparse_decode(m);
  ms::cuda::bind_row_grad(m);
  ms::cuda::bind_row_adam(m);
  ms::cuda::bind_resample(m);
}
