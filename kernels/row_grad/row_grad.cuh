// Σ coef · u[token] over a feature's entries, in a fixed order and without atomics.
//
// A feature that fires on most tokens would keep one block busy long after the others are done. So the sorted entries
// are also cut at every multiple of 2^cut_bits: pieces that belong to one feature from end to end are summed beforehand, one
// block a piece (hot_piece_kernel), and whoever reduces the feature adds those sums in order. Where the cuts lie depends
// on the code alone.
#pragma once

#include "../common/common.cuh"

namespace ms {

// Columns of a row that a thread holds: V pieces of N, `lanes`·N apart, in a tile that begins at `first`.
struct Columns {
  int64_t first;
  int lane, lanes;
  template <int N>
  MS_DEVICE int64_t at(int v) const {
    return first + (int64_t(v) * lanes + lane) * N;
  }
};

// g += Σ coef[entries[p]] · u[tokens[p]] over positions [begin, end). Called by whole warps.
template <int N, int V>
MS_DEVICE void add_rows(Values<N> (&g)[V], const Csc& code, const RowSum& sum, int64_t begin, int64_t end,
                        const Columns& columns) {
  constexpr int kRows = V >= 8 ? 1 : 8 / V;  // so that eight loads a thread are under way
  const int lane = threadIdx.x % kWarp;
  for (int64_t p = begin; p < end; p += kWarp) {
    const int n = end - p < kWarp ? int(end - p) : kWarp;
    float my_coef = 0.0f;
    int32_t my_token = 0;
    if (lane < n) {
      my_coef = sum.coef[code.entries[p + lane]];
      my_token = code.tokens[p + lane];
    }
    for (int i = 0; i < n; i += kRows) {
      Piece<float, N> rows[kRows][V];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t token = __shfl_sync(kAllLanes, my_token, (i + r) % kWarp);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int64_t c = columns.at<N>(v);
          const bool wanted = i + r < n && c < sum.d;
          rows[r][v] = wanted ? Piece<float, N>::load(sum.u + token * sum.d + c) : Piece<float, N>::none();
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float c = __shfl_sync(kAllLanes, my_coef, (i + r) % kWarp);
        if (i + r < n) {
#pragma unroll
          for (int v = 0; v < V; ++v)
#pragma unroll
            for (int k = 0; k < N; ++k) g[v].v[k] += c * rows[r][v].get(k);
        }
      }
    }
  }
}

// Where feature f's entries lie, and the pieces that are its own from end to end: [from, to).
struct WholePieces {
  int64_t begin, end, from, to;
  bool none;
  MS_DEVICE WholePieces(const Csc& code, const RowSum& sum, int64_t f)
      : begin(code.starts[f]), end(code.starts[f + 1]),
        from((begin + (int64_t{1} << sum.cut_bits) - 1) >> sum.cut_bits), to(end >> sum.cut_bits),
        none(sum.pieces == nullptr || from >= to) {}
};

// The gradient row of feature f: its first positions, the pieces summed beforehand, its last positions.
template <int N, int V>
MS_DEVICE void reduce_row(Values<N> (&g)[V], const Csc& code, const RowSum& sum, int64_t f,
                          const Columns& columns) {
#pragma unroll
  for (int v = 0; v < V; ++v) g[v] = zeros<N>();
  const WholePieces whole(code, sum, f);
  if (whole.none) return add_rows<N, V>(g, code, sum, whole.begin, whole.end, columns);
  add_rows<N, V>(g, code, sum, whole.begin, whole.from << sum.cut_bits, columns);
  for (int64_t piece = whole.from; piece < whole.to; ++piece) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = columns.at<N>(v);
      if (c < sum.d) {
        const Values<N> part = load<N>(sum.pieces + piece * sum.d + c);
#pragma unroll
        for (int k = 0; k < N; ++k) g[v].v[k] += part.v[k];
      }
    }
  }
  add_rows<N, V>(g, code, sum, whole.to << sum.cut_bits, whole.end, columns);
}

// A lane's share of Σ values over the entries at positions [begin, end), in double, U loads on their way. Called by whole
// warps.
template <int U>
MS_DEVICE double entry_total(const Csc& code, const float* values, int64_t begin, int64_t end) {
  double total = 0.0;
#pragma unroll U
  for (int64_t p = begin + threadIdx.x % kWarp; p < end; p += kWarp) total += double(values[code.entries[p]]);
  return total;
}

// Σ bias over feature f's entries; every lane of a warp gets it.
MS_DEVICE float bias_total(const Csc& code, const RowSum& sum, int64_t f) {
  const WholePieces whole(code, sum, f);
  if (whole.none) return float(warp_sum(entry_total<1>(code, sum.bias, whole.begin, whole.end)));
  double total = entry_total<1>(code, sum.bias, whole.begin, whole.from << sum.cut_bits);
  for (int64_t piece = whole.from + threadIdx.x % kWarp; piece < whole.to; piece += kWarp)
    total += sum.piece_totals[piece];
  total += entry_total<1>(code, sum.bias, whole.to << sum.cut_bits, whole.end);
  return float(warp_sum(total));
}

// Block `piece`: the sum of positions [piece · 2^cut_bits, (piece + 1) · 2^cut_bits), if one feature has them all.
template <int N, int V>
__global__ void __launch_bounds__(512, 2) hot_piece_kernel(Csc code, RowSum sum, float* pieces) {
  const int64_t begin = int64_t(blockIdx.x) << sum.cut_bits, end = begin + (int64_t{1} << sum.cut_bits);
  // Behind the last entry there may be unused room; a piece that ends there belongs to no feature.
  const int64_t f = upper_bound(code.starts, code.features, begin) - 1;
  if (code.starts[f + 1] < end) return;
  Columns columns{0, int(threadIdx.x), int(blockDim.x)};
  for (; columns.first < sum.d; columns.first += int64_t(columns.lanes) * N * V) {
    Values<N> g[V];
#pragma unroll
    for (int v = 0; v < V; ++v) g[v] = zeros<N>();
    add_rows<N, V>(g, code, sum, begin, end, columns);
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (columns.at<N>(v) < sum.d) store<N>(pieces + blockIdx.x * sum.d + columns.at<N>(v), g[v]);
  }
}

// `lanes` threads per feature: one warp (then several features per block), or the whole block.
template <int N, int V>
__global__ void __launch_bounds__(512) row_grad_kernel(Csc code, RowSum sum, int lanes, float* out) {
  const int64_t f = int64_t(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  if (f >= code.features) return;
  Columns columns{0, int(threadIdx.x) % lanes, lanes};
  for (; columns.first < sum.d; columns.first += int64_t(lanes) * N * V) {
    Values<N> g[V];
    reduce_row<N, V>(g, code, sum, f, columns);
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (columns.at<N>(v) < sum.d) store<N>(out + f * sum.d + columns.at<N>(v), g[v]);
  }
}

// Σ bias of each piece, whether or not one feature has it all, one warp per piece.
template <int U>
__global__ void __launch_bounds__(256) piece_total_kernel(Csc code, RowSum sum, int64_t count,
                                                          double* totals) {
  const int64_t piece = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int64_t begin = piece << sum.cut_bits, end = begin + (int64_t{1} << sum.cut_bits);
  // Behind the last entry there may be unused room, which says nothing.
  if (piece >= count || end > code.starts[code.features]) return;
  const double total = warp_sum(entry_total<U>(code, sum.bias, begin, end));
  if (threadIdx.x % kWarp == 0) totals[piece] = total;
}

// Σ coef over a feature's entries, in double, one warp per feature.
template <int U>
__global__ void __launch_bounds__(256) feature_sum_kernel(Csc code, const float* coef, float* out) {
  const int64_t f = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (f >= code.features) return;
  const double total = warp_sum(entry_total<U>(code, coef, code.starts[f], code.starts[f + 1]));
  if (threadIdx.x % kWarp == 0) out[f] = float(total);
}

}  // namespace ms
