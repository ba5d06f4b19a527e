// Rows of the decoder gathered by a token's entries: their weighted sum, and their products with a vector.
// Shared by sparse_decode, gather_dot and decode_loss.
#pragma once

#include "common.cuh"

namespace ms {

constexpr int kChunk = 256;    // entries whose value and feature stand in shared memory at a time
constexpr int kInFlight = 8;   // 16-byte loads of one thread under way in the weighted sum
constexpr int kDotFlight = 8;  // and in a product

struct Staged {  // shared memory: one chunk of a token's entries
  float values[kChunk];
  int32_t indices[kChunk];
};

// All threads of the block together: entries [from, from + n) of the code into shared memory.
MS_DEVICE void stage(Staged& staged, const Code& code, int64_t from, int n) {
  __syncthreads();  // the chunk before may still be read
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    staged.values[i] = code.values[from + i];
    staged.indices[i] = code.indices[from + i];
  }
  __syncthreads();
}

// sum += Σ value · w[feature, column …] over every `groups`-th of the n staged entries, beginning with `group`.
template <class T, int N>
MS_DEVICE void add_weighted_rows(Values<N>& sum, const Staged& staged, int n, int group, int groups, const T* w,
                                 int64_t d, int64_t column) {
  int j = group;
  for (; j + (kInFlight - 1) * groups < n; j += kInFlight * groups) {
    Piece<T, N> rows[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u)
      rows[u] = Piece<T, N>::load(w + int64_t(staged.indices[j + u * groups]) * d + column);
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const float value = staged.values[j + u * groups];
#pragma unroll
      for (int i = 0; i < N; ++i) sum.v[i] += value * rows[u].get(i);
    }
  }
  for (; j < n; j += groups) {
    const Piece<T, N> row = Piece<T, N>::load(w + int64_t(staged.indices[j]) * d + column);
    const float value = staged.values[j];
#pragma unroll
    for (int i = 0; i < N; ++i) sum.v[i] += value * row.get(i);
  }
}

// row · r over d columns, by one warp; every lane gets it. r may be in shared memory or not.
template <class T, int N>
MS_DEVICE float row_dot(const T* row, const float* r, int64_t d) {
  const int lane = threadIdx.x % kWarp;
  LongSum total;
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};  // chains of 2·N products, and of what is left over
  int64_t c = lane * N;
  for (; c + (kDotFlight - 1) * kWarp * N < d; c += kDotFlight * kWarp * N) {
    Piece<T, N> pieces[kDotFlight];
#pragma unroll
    for (int u = 0; u < kDotFlight; ++u) pieces[u] = Piece<T, N>::load(row + c + u * kWarp * N);
    total.add((sums[0] + sums[1]) + (sums[2] + sums[3]));  // of the pieces before, while these are on their way
    sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
#pragma unroll
    for (int u = 0; u < kDotFlight; ++u) {
      const Values<N> with = load<N>(r + c + u * kWarp * N);
#pragma unroll
      for (int i = 0; i < N; ++i) sums[(u * N + i) % 4] += pieces[u].get(i) * with.v[i];
    }
  }
  total.add((sums[0] + sums[1]) + (sums[2] + sums[3]));
  sums[0] = sums[1] = sums[2] = sums[3] = 0.0f;
  for (; c < d; c += kWarp * N) {
    const Piece<T, N> piece = Piece<T, N>::load(row + c);
    const Values<N> with = load<N>(r + c);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i % 4] += piece.get(i) * with.v[i];
  }
  total.add((sums[0] + sums[1]) + (sums[2] + sums[3]));
  return warp_sum(total.value());
}

// The code's products with r, one warp per entry: out[j] = scale · (w[feature of j] · r). From the last entry to the
// first, because the rows gathered last are the ones still in cache.
template <class T, int N>
MS_DEVICE void entry_dots(const Code& code, int64_t from, int64_t count, const T* w, int64_t d, const float* r,
                          float scale, float* out) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  for (int64_t j = count - 1 - warp; j >= 0; j -= warps) {
    const float dot = row_dot<T, N>(w + int64_t(code.indices[from + j]) * d, r, d);
    if (lane == 0) out[from + j] = scale * dot;
  }
}

// bias + Σ value · row of one token, a tile of lanes·N columns at a time; the block's `groups` of `lanes` threads share
// the entries. finish(column, sum) is called by the first group for every N columns.
template <class T, int N, class Finish>
MS_DEVICE void weighted_sum(const Code& code, int64_t from, int64_t count, const T* w, int64_t d,
                            const float* bias, int lanes, Staged& staged, float* partial, Finish finish) {
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = blockDim.x / lanes;
  for (int64_t first = 0; first < d; first += int64_t(lanes) * N) {
    const int64_t column = first + lane * N;
    Values<N> sum = zeros<N>();
    for (int64_t at = 0; at < count; at += kChunk) {
      const int n = count - at < kChunk ? int(count - at) : kChunk;
      if (first == 0 || count > kChunk) stage(staged, code, from + at, n);
      if (column < d) add_weighted_rows<T, N>(sum, staged, n, group, groups, w, d, column);
    }
    if (groups > 1) {  // the groups' sums join in their order
      __syncthreads();
      if (group > 0) store<N>(partial + (int64_t(group - 1) * lanes + lane) * N, sum);
      __syncthreads();
      if (group == 0)
        for (int g = 1; g < groups; ++g) {
          const Values<N> other = load<N>(partial + (int64_t(g - 1) * lanes + lane) * N);
#pragma unroll
          for (int i = 0; i < N; ++i) sum.v[i] += other.v[i];
        }
    }
    if (group == 0 && column < d) {
      const Values<N> b = load<N>(bias + column);
#pragma unroll
      for (int i = 0; i < N; ++i) sum.v[i] += b.v[i];
      finish(column, sum);
    }
  }
}

// Bytes of shared memory in front of the residual: the staged entries, the groups' partial sums, the slots of sum_over.
__host__ __device__ constexpr int64_t gather_shared_bytes(int threads, int lanes, int n) {
  return int64_t(sizeof(Staged)) + int64_t(threads - lanes) * n * 4 + 32 * 4;
}

}  // namespace ms
