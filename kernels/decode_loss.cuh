// Decode, residual, loss and slope of each value of a token by one block: the rows that the slopes need were gathered
// by the same multiprocessor a moment before, and the residual never leaves it between the two.
#pragma once

#include "gather.cuh"

namespace ms {

// in_shared: there is room for the residual in shared memory; else it is read back from where it was written.
template <class T, int N>
__global__ void __launch_bounds__(256, 3) decode_loss_kernel(TokenEntries code, const T* w, int64_t d, const float* bias,
                                                          const float* x, double per_d, int lanes, bool in_shared,
                                                             float* loss,
                                                          float* residual, float* slopes) {
  Staged& staged = *shared_memory<Staged>();
  float* partial = reinterpret_cast<float*>(&staged + 1);
  float* slots = partial + int64_t(blockDim.x - lanes) * N;
  float* kept = slots + 32;
  const int64_t token = blockIdx.x, from = code.offsets[token], count = code.offsets[token + 1] - from;
  const float* target = x + token * d;
  float* row = residual + token * d;
  LongSum squares;
  weighted_sum<T, N>(code, from, count, w, d, bias, lanes, staged, partial,
                     [&](int64_t column, Values<N> sum) {
                       const Values<N> t = load<N>(target + column);
                       float some = 0.0f;
#pragma unroll
                       for (int i = 0; i < N; ++i) {
                         sum.v[i] -= t.v[i];
                         some += sum.v[i] * sum.v[i];
                       }
                       squares.add(some);
                       store<N>(row + column, sum);
                       if (in_shared) store<N>(kept + column, sum);
                     });
  const float in_all = sum_over(squares.value(), blockDim.x, slots);
  if (threadIdx.x == 0) loss[token] = float(double(in_all) * per_d);
  __syncthreads();  // the residual is whole, in shared memory and in the block's view of global memory
  entry_dots<T, N>(code, from, count, w, d, in_shared ? kept : row, float(2.0 * per_d), slopes);
}

}  // namespace ms
