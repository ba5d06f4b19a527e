// Decode, residual, loss and slope of each value of a token by one block, every row read from memory once: the columns
// go by in slices, and the slice of a row stays in the registers of one warp until the residual of the slice, which needs
// all rows, is known and has given its part of the row's slope.
#pragma once

#include "../common/gather.cuh"

namespace ms {

// Bytes of shared memory: each warp's sums over its rows, the residual of a slice, the slots of sum_over, the entries held.
__host__ __device__ constexpr int64_t decode_loss_shared_bytes(int warps, int n, int rows) {
  return 4 * (int64_t(warps + 1) * kWarp * n + 32 + int64_t(2) * warps * rows);
}

// Blocks of 256 threads that a multiprocessor shall have: the fewer rows a warp holds, the more blocks keep loads in
// flight. On Ampere 64 registers are too few for four rows, and 80 for eight.
constexpr int decode_loss_blocks(int rows) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return rows <= 4 ? 3 : 2;
#else
  return rows <= 4 ? 4 : rows <= 8 ? 3 : 2;
#endif
}

// R: rows that a warp holds. Entries beyond warps · R are read twice.
template <class T, int N, int R>
__global__ void __launch_bounds__(256, decode_loss_blocks(R))
    decode_loss_kernel(Code code, const T* w, int64_t d, const float* bias, const float* x, double per_d,
                       float* loss, float* residual, float* slopes) {
  constexpr int kSlice = kWarp * N;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  float* partial = shared_memory<float>();
  float* kept = partial + int64_t(warps) * kSlice;
  float* slots = kept + kSlice;
  float* values = slots + 32;
  int32_t* indices = reinterpret_cast<int32_t*>(values + warps * R);
  const int64_t token = blockIdx.x, from = code.offsets[token], count = code.offsets[token + 1] - from;
  const int held = count < warps * R ? int(count) : warps * R;
  for (int j = threadIdx.x; j < held; j += blockDim.x) {
    values[j] = code.values[from + j];
    indices[j] = code.indices[from + j];
  }
  __syncthreads();
  LongSum squares, dots[R];
  for (int64_t first = 0; first < d; first += kSlice) {
    const int64_t column = first + lane * N;
    const bool inside = column < d;
    Piece<T, N> rows[R];
#pragma unroll
    for (int u = 0; u < R; ++u) {
      const int j = warp + u * warps;
      rows[u] = inside && j < held ? Piece<T, N>::load(w + int64_t(indices[j]) * d + column) : Piece<T, N>::none();
    }
    Values<N> sum = zeros<N>();
#pragma unroll
    for (int u = 0; u < R; ++u) {
      const int j = warp + u * warps;
      const float value = j < held ? values[j] : 0.0f;
#pragma unroll
      for (int i = 0; i < N; ++i) sum.v[i] += value * rows[u].get(i);
    }
    for (int64_t j = held + warp; j < count && inside; j += warps) {
      const Piece<T, N> row = Piece<T, N>::load(w + int64_t(code.indices[from + j]) * d + column);
      const float value = code.values[from + j];
#pragma unroll
      for (int i = 0; i < N; ++i) sum.v[i] += value * row.get(i);
    }
    store<N>(partial + warp * kSlice + lane * N, sum);
    __syncthreads();
    for (int c = threadIdx.x; c < kSlice; c += blockDim.x) {  // the warps' sums join in their order
      float r = 0.0f;
      if (first + c < d) {
        for (int g = 0; g < warps; ++g) r += partial[g * kSlice + c];
        r += bias[first + c];
        r -= x[token * d + first + c];
        residual[token * d + first + c] = r;
        squares.add(r * r);
      }
      kept[c] = r;
    }
    __syncthreads();
    const Values<N> mine = load<N>(kept + lane * N);
#pragma unroll
    for (int u = 0; u < R; ++u) {
      float dot = 0.0f;
#pragma unroll
      for (int i = 0; i < N; ++i) dot += rows[u].get(i) * mine.v[i];
      dots[u].add(dot);
    }
  }
  const float in_all = sum_over(squares.value(), blockDim.x, slots);
  if (threadIdx.x == 0) loss[token] = float(double(in_all) * per_d);
  const float scale = float(2.0 * per_d);
#pragma unroll
  for (int u = 0; u < R; ++u) {
    const int j = warp + u * warps;
    const float dot = warp_sum(dots[u].value());
    if (lane == 0 && j < held) slopes[from + j] = scale * dot;
  }
  __syncthreads();  // the residual is complete and visible to the block
  entry_dots<T, N>(code, from + held, count - held, w, d, residual + token * d, scale, slopes);
}

}  // namespace ms
