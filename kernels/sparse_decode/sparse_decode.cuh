// Sum of the active decoder rows of each token, and its gradient in the values. One block per token.
#pragma once

#include "../common/gather.cuh"

namespace ms {

template <class T, int N>
__global__ void __launch_bounds__(256, 4) sparse_decode_kernel(Code code, const T* w, int64_t d,
                                                            const float* bias, int lanes, float* out) {
  Staged& staged = *shared_memory<Staged>();
  float* partial = reinterpret_cast<float*>(&staged + 1);
  const int64_t token = blockIdx.x, from = code.offsets[token];
  float* row = out + token * d;
  weighted_sum<T, N>(code, from, code.offsets[token + 1] - from, w, d, bias, lanes, staged, partial,
                     [&](int64_t column, const Values<N>& sum) { store<N>(row + column, sum); });
}

template <class T, int N>
__global__ void __launch_bounds__(256, 3) gather_dot_kernel(Code code, const T* w, int64_t d, const float* g,
                                                         float scale, float* out) {
  const int64_t token = blockIdx.x, from = code.offsets[token];
  entry_dots<T, N>(code, from, code.offsets[token + 1] - from, w, d, g + token * d, scale, out);
}

}  // namespace ms
