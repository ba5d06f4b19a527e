// Launchers of row_adam, row_grad_adam and encoder_grad_adam.
#include "../../kernels/row_adam/row_adam.cuh"

#include "../core/adam.h"
#include "kernels.h"
#include "launch.h"
#include "rows.h"

namespace ms::cuda {
namespace {

AdamRows adam_rows(float* w, int64_t rows, int64_t d, const Moments& moments, const EncoderCopy& copy,
                   const AdamStep& step) {
  return {w, rows, moments, copy, step.unit, step.lazy, step.own, uint32_t(d / step.own.blocks)};
}

// Whether four columns at a time can be read and written.
bool wide(const AdamRows& rows) {
  const auto [m, v, dtype, m_scale, v_scale] = rows.moments;
  const bool moments = dtype == Dtype::bf16 ? (reinterpret_cast<uintptr_t>(m) | reinterpret_cast<uintptr_t>(v)) % 8 == 0
                                            : all_aligned(static_cast<float*>(m), static_cast<float*>(v));
  return all_aligned(rows.w) && moments && reinterpret_cast<uintptr_t>(rows.copy.data) % 8 == 0 &&
         rows.copy.stride % 4 == 0;
}

// call(T) with the type of the moments.
template <class Call>
void dispatch_moments(const AdamRows& rows, const Call& call) {
  if (rows.moments.dtype == Dtype::bf16) call(bf16{});
  else call(0.0f);
}

// The same, and whether a multiple of a row is added to its gradient.
template <class Call>
void dispatch_own(const AdamRows& rows, const Call& call) {
  dispatch_moments(rows, [&](auto moment) {
    if (rows.own.factors) call(moment, std::true_type{});
    else call(moment, std::false_type{});
  });
}

}  // namespace

void row_adam(float* w, int64_t n_rows, const Moments& moments, const EncoderCopy& copy, const float* g, int64_t d,
              const AdamStep& step, const AdamFactors* live, int threads, cudaStream_t stream) {
  const AdamRows rows = adam_rows(w, n_rows, d, moments, copy, step);
  const bool vector = wide(rows) && all_aligned(g);
  if (!step.unit && !step.lazy && moments.dtype == Dtype::f32 && !copy.data && !step.own.factors) {
    const int64_t length = n_rows * d;
    const auto entries = [&](auto width) {
      constexpr int N = decltype(width)::value;
      launch("row_adam", {std::min<int64_t>(blocks_for(length, 256 * N), 1 << 16), 256, 0, stream},
             adam_entries_kernel<N>, rows, g, length, adam_factors(step), live);
    };
    return vector && length % 4 == 0 ? entries(std::integral_constant<int, 4>{})
                                     : entries(std::integral_constant<int, 1>{});
  }
  dispatch_own(rows, [&](auto moment, auto own) {
    dispatch_widths(vector, d, threads, [&](auto n, auto v, const RowShape& s) {
      constexpr int N = decltype(n)::value, V = decltype(v)::value;
      launch("row_adam", {row_grid(n_rows, s), s.threads, 32 * 4, stream},
             row_adam_kernel<N, V, decltype(moment), decltype(own)::value>, rows, g, d, s.lanes, adam_factors(step),
             live);
    });
  });
}

void row_grad_adam(float* w, const Moments& moments, const EncoderCopy& copy, const Csc& code, const RowSum& factors,
                   int64_t nnz, float* pieces, float scale, const AdamStep& step, const AdamFactors* live, int threads,
                   cudaStream_t stream) {
  const AdamRows rows = adam_rows(w, code.features, factors.d, moments, copy, step);
  const RowSum sum = hot_pieces(code, factors, nnz, pieces, nullptr, threads, stream);
  dispatch_own(rows, [&](auto moment, auto own) {
    dispatch_widths(wide(rows) && all_aligned(sum.u, sum.pieces), sum.d, threads,
                    [&](auto n, auto v, const RowShape& s) {
      constexpr int N = decltype(n)::value, V = decltype(v)::value;
      launch("row_grad_adam", {row_grid(code.features, s), s.threads, 32 * 4, stream},
             row_grad_adam_kernel<N, V, decltype(moment), decltype(own)::value>, rows, code, sum, scale, s.lanes,
             adam_factors(step), live);
    });
  });
}

void encoder_grad_adam(float* w, const Moments& moments, const EncoderCopy& copy, const Csc& code,
                       const RowSum& factors, int64_t nnz, float* pieces, double* totals, const EncoderSums& sums,
                       const AdamStep& step, const AdamFactors* live, int threads, cudaStream_t stream) {
  const AdamRows rows = adam_rows(w, code.features, factors.d, moments, copy, step);
  const RowSum sum = hot_pieces(code, factors, nnz, pieces, totals, threads, stream);
  dispatch_moments(rows, [&](auto moment) {
    dispatch_widths(wide(rows) && all_aligned(sum.u, sum.pieces, sums.weighted), sum.d, threads,
                    [&](auto n, auto v, const RowShape& s) {
      constexpr int N = decltype(n)::value, V = decltype(v)::value;
      launch("encoder_grad_adam", {row_grid(blocks_for(code.features, sums.together), s), s.threads, 32 * 4, stream},
             encoder_grad_adam_kernel<N, V, decltype(moment)>, rows, code, sum, sums, s.lanes, adam_factors(step),
             live);
    });
  });
}

}  // namespace ms::cuda
