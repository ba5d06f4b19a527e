// How the kernels over weight rows share a row out to threads, and the sums of hot features that come before them.
#pragma once

#include <type_traits>

#include "../../kernels/common/arguments.h"
#include "../../kernels/common/common.cuh"
#include "launch.h"

namespace ms::cuda {

struct RowShape {
  int lanes, threads, pieces;  // threads per row, threads per block, pieces of N columns per thread
};

// A warp per row up to 128 pieces, so that there are no barriers; a block per row beyond. Rows longer than 512 threads
// hold in registers are walked in tiles.
inline RowShape row_shape(int64_t d, int n, int threads) {
  constexpr int kMinBlock = 128;
  const int64_t columns = blocks_for(d, n);
  int64_t lanes = columns <= 128 ? kWarp : std::min<int64_t>(256, blocks_for(columns, kWarp) * kWarp);
  if (columns > 4 * lanes) lanes = 512;
  if (threads) lanes = threads;
  // sum_over adds within a warp or within the whole block, nothing between.
  const int64_t block = std::max<int64_t>(lanes, kMinBlock);
  if (lanes > kWarp) lanes = block;
  const int64_t per_lane = blocks_for(columns, lanes);
  return {int(lanes), int(block), n == 1 ? 4 : per_lane <= 1 ? 1 : per_lane <= 2 ? 2 : 4};
}

// call(N, V, shape) with the compile-time widths of this shape. Single columns, the rare case, come in fours only: fewer
// kernels to compile.
template <class Call>
void dispatch_widths(bool wide, int64_t d, int threads, const Call& call) {
  const auto pick = [&](auto n) {
    const RowShape s = row_shape(d, decltype(n)::value, threads);
    if constexpr (decltype(n)::value > 1) {
      if (s.pieces == 1) return call(n, std::integral_constant<int, 1>{}, s);
      if (s.pieces == 2) return call(n, std::integral_constant<int, 2>{}, s);
    }
    call(n, std::integral_constant<int, 4>{}, s);
  };
  if (wide && d % 4 == 0) pick(std::integral_constant<int, 4>{});
  else pick(std::integral_constant<int, 1>{});
}

inline int64_t row_grid(int64_t rows, const RowShape& s) { return blocks_for(rows, s.threads / s.lanes); }

// Sums the pieces that lie inside one feature; returns the sum with their place. `totals`: room for the sums of their
// bias gradients, or null.
RowSum hot_pieces(const Csc& code, RowSum sum, int64_t nnz, float* pieces, double* totals, int threads,
                  cudaStream_t stream);

}  // namespace ms::cuda
