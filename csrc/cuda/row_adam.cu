// Launchers of row_grad, feature_sum, row_adam and the two in one: how a row is shared out to threads.
#include "../../kernels/row_adam/row_adam.cuh"

#include <cmath>

#include "kernels.h"
#include "launch.h"

namespace ms::cuda {
namespace {

struct Shape {
  int lanes, threads, pieces;  // threads a row, threads a block, pieces of N columns a thread
};

constexpr int kLeast = 128;  // threads of a block

// A warp a row up to 128 pieces, so that nothing waits at a barrier; a block a row beyond. Rows longer than 512 threads
// hold in registers are walked in tiles.
Shape shape_for(int64_t d, int n, int threads) {
  const int64_t columns = blocks_for(d, n);
  int64_t lanes = columns <= 128 ? kWarp : std::min<int64_t>(256, blocks_for(columns, kWarp) * kWarp);
  if (columns > 4 * lanes) lanes = 512;
  if (threads) lanes = threads;
  // sum_over knows a warp and the whole block, nothing between.
  const int64_t block = std::max<int64_t>(lanes, kLeast);
  if (lanes > kWarp) lanes = block;
  const int64_t each = blocks_for(columns, lanes);
  return {int(lanes), int(block), n == 1 ? 4 : each <= 1 ? 1 : each <= 2 ? 2 : 4};
}

// call(N, V) with the compile-time widths of this shape. Single columns, the rare case, come in fours only: fewer kernels
// to compile.
template <class Call>
void widths(bool wide, int64_t d, int threads, const Call& call) {
  const auto pick = [&](auto n) {
    const Shape s = shape_for(d, decltype(n)::value, threads);
    if constexpr (decltype(n)::value > 1) {
      if (s.pieces == 1) return call(n, std::integral_constant<int, 1>{}, s);
      if (s.pieces == 2) return call(n, std::integral_constant<int, 2>{}, s);
    }
    call(n, std::integral_constant<int, 4>{}, s);
  };
  if (wide && d % 4 == 0) pick(std::integral_constant<int, 4>{});
  else pick(std::integral_constant<int, 1>{});
}

bool wide(const AdamRows& rows) {
  const bool moments = rows.bf16_moments ? (reinterpret_cast<uintptr_t>(rows.m) | reinterpret_cast<uintptr_t>(rows.v)) % 8 == 0
                                         : all_aligned(static_cast<float*>(rows.m), static_cast<float*>(rows.v));
  return all_aligned(rows.w) && moments && reinterpret_cast<uintptr_t>(rows.copy) % 8 == 0 && rows.width % 4 == 0;
}

// call(T) with the type of the moments.
template <class Call>
void typed(const AdamRows& rows, const Call& call) {
  if (rows.bf16_moments) call(bf16{});
  else call(0.0f);
}

// The pieces that lie inside one feature are summed first; returns the sum with where they are. `totals`: room for the
// sums of their bias gradients, or null.
RowSum hot_pieces(const FeatureEntries& code, RowSum sum, int64_t nnz, float* pieces, double* totals, int threads,
                  cudaStream_t stream) {
  sum.pieces = nullptr;
  if (pieces == nullptr || (nnz >> sum.cut_bits) == 0) return sum;
  widths(all_aligned(sum.u, pieces), sum.d, threads, [&](auto n, auto v, const Shape& s) {
    constexpr int N = decltype(n)::value, V = decltype(v)::value;
    launch("row_grad (hot features)", {nnz >> sum.cut_bits, s.lanes, 0, stream}, hot_piece_kernel<N, V>, code, sum,
           pieces);
  });
  if (totals)
    launch("row_grad (bias of hot features)", {blocks_for(nnz >> sum.cut_bits, 256 / kWarp), 256, 0, stream},
           piece_total_kernel, code, sum, nnz >> sum.cut_bits, totals);
  sum.pieces = pieces, sum.piece_totals = totals;
  return sum;
}

int64_t grid_for(int64_t rows, const Shape& s) { return blocks_for(rows, s.threads / s.lanes); }

}  // namespace

AdamFactors adam_factors(const Adam& a) {
  return {float(1 - a.beta1), float(a.beta2), float(1 - a.beta2),
          float(1 / std::sqrt(1 - std::pow(a.beta2, double(a.step)))),
          float(a.lr / (1 - std::pow(a.beta1, double(a.step)))), float(a.eps), uint32_t(a.step),
          float(std::sqrt(1 - std::pow(a.beta2, double(a.step))))};
}

void row_grad(const FeatureEntries& code, const RowSum& factors, int64_t nnz, float* pieces, float* out, int threads,
              cudaStream_t stream) {
  const RowSum sum = hot_pieces(code, factors, nnz, pieces, nullptr, threads, stream);
  widths(all_aligned(sum.u, out, sum.pieces), sum.d, threads, [&](auto n, auto v, const Shape& s) {
    constexpr int N = decltype(n)::value, V = decltype(v)::value;
    launch("row_grad", {grid_for(code.features, s), s.threads, 0, stream}, row_grad_kernel<N, V>, code, sum, s.lanes,
           out);
  });
}

void feature_sum(const FeatureEntries& code, const float* coef, float* out, cudaStream_t stream) {
  launch("feature_sum", {blocks_for(code.features, 256 / kWarp), 256, 0, stream}, feature_sum_kernel, code, coef, out);
}

void row_grad_adam(const AdamRows& rows, const FeatureEntries& code, const RowSum& factors, int64_t nnz, float* pieces,
                   float scale, const Adam& adam, const AdamFactors* live, int threads, cudaStream_t stream) {
  const RowSum sum = hot_pieces(code, factors, nnz, pieces, nullptr, threads, stream);
  typed(rows, [&](auto moment) {
    widths(wide(rows) && all_aligned(sum.u, sum.pieces), sum.d, threads, [&](auto n, auto v, const Shape& s) {
      constexpr int N = decltype(n)::value, V = decltype(v)::value;
      launch("row_grad_adam", {grid_for(code.features, s), s.threads, 32 * 4, stream},
             row_grad_adam_kernel<N, V, decltype(moment)>, rows, code, sum, scale, s.lanes, adam_factors(adam), live);
    });
  });
}

void encoder_grad_adam(const AdamRows& rows, const FeatureEntries& code, const RowSum& factors, int64_t nnz,
                       float* pieces, double* totals, const EncoderSums& sums, const Adam& adam,
                       const AdamFactors* live, int threads, cudaStream_t stream) {
  const RowSum sum = hot_pieces(code, factors, nnz, pieces, totals, threads, stream);
  typed(rows, [&](auto moment) {
    widths(wide(rows) && all_aligned(sum.u, sum.pieces, sums.weighted), sum.d, threads,
           [&](auto n, auto v, const Shape& s) {
      constexpr int N = decltype(n)::value, V = decltype(v)::value;
      launch("encoder_grad_adam", {grid_for(blocks_for(code.features, sums.together), s), s.threads, 32 * 4, stream},
             encoder_grad_adam_kernel<N, V, decltype(moment)>, rows, code, sum, sums, s.lanes, adam_factors(adam), live);
    });
  });
}

void row_adam(const AdamRows& rows, const float* g, int64_t d, const Adam& adam, const AdamFactors* live, int threads,
              cudaStream_t stream) {
  const bool vector = wide(rows) && all_aligned(g);
  if (!rows.unit && !rows.lazy && !rows.bf16_moments && !rows.copy) {
    const int64_t length = rows.rows * d;
    const auto entries = [&](auto width) {
      constexpr int N = decltype(width)::value;
      launch("row_adam", {std::min<int64_t>(blocks_for(length, 256 * N), 1 << 16), 256, 0, stream},
             adam_entries_kernel<N>, rows, g, length, adam_factors(adam), live);
    };
    return vector && length % 4 == 0 ? entries(std::integral_constant<int, 4>{})
                                     : entries(std::integral_constant<int, 1>{});
  }
  typed(rows, [&](auto moment) {
    widths(vector, d, threads, [&](auto width, auto v, const Shape& s) {
      constexpr int N = decltype(width)::value, V = decltype(v)::value;
      launch("row_adam", {grid_for(rows.rows, s), s.threads, 32 * 4, stream}, row_adam_kernel<N, V, decltype(moment)>,
             rows, g, d, s.lanes, adam_factors(adam), live);
    });
  });
}

}  // namespace ms::cuda
