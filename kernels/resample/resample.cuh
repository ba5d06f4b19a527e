// Dead features take the direction of their input: decoder unit, encoder scaled to the living, bias 0.
#pragma once

#include "../common/common.cuh"

namespace ms {

constexpr int kNormBlocks = 256;  // fixed, so that the order of the sum does not depend on the GPU

struct NormPart {  // Σ of encoder norms, and how many
  double sum, count;
};

// Block b: the living among features b, b + 256, …, one warp per feature.
__global__ void __launch_bounds__(256) alive_norms_kernel(const float* w_enc, const uint8_t* alive,
                                                                 int64_t features, int64_t d, NormPart* parts) {
  double* slots = shared_memory<double>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  double sum = 0.0, count = 0.0;  // the same in every lane of a warp
  for (int64_t f = blockIdx.x + int64_t(warp) * gridDim.x; f < features; f += int64_t(warps) * gridDim.x) {
    if (!alive[f]) continue;
    LongSum squares;
    for (int64_t c = lane; c < d; c += kWarp) squares.add(w_enc[f * d + c] * w_enc[f * d + c]);
    sum += sqrt(double(warp_sum(squares.value())));
    count += 1.0;
  }
  // Every lane but the first gives nothing, so that each warp counts once.
  sum = sum_over(lane == 0 ? sum : 0.0, blockDim.x, slots);
  count = sum_over(lane == 0 ? count : 0.0, blockDim.x, slots);
  if (threadIdx.x == 0) parts[blockIdx.x] = {sum, count};
}

// One block per chosen feature.
__global__ void __launch_bounds__(256) resample_kernel(float* w_enc, float* w_dec, float* b_enc, int64_t d,
                                                              const int64_t* chosen, const float* inputs,
                                                              const NormPart* parts, float factor) {
  double* slots = shared_memory<double>();
  const NormPart mine = parts[threadIdx.x];  // 256 threads, as many as parts
  const double sum = sum_over(mine.sum, blockDim.x, slots), count = sum_over(mine.count, blockDim.x, slots);
  const float norm = factor * (count > 0.0 ? float(sum / count) : 1.0f);
  const int64_t f = chosen[blockIdx.x];
  const float* x = inputs + int64_t(blockIdx.x) * d;
  double squares = 0.0;
  for (int64_t c = threadIdx.x; c < d; c += blockDim.x) squares += double(x[c]) * double(x[c]);
  const float length = float(sqrt(sum_over(squares, blockDim.x, slots)));
  for (int64_t c = threadIdx.x; c < d; c += blockDim.x) {
    const float direction = x[c] / length;
    w_dec[f * d + c] = direction;
    w_enc[f * d + c] = direction * norm;
  }
  if (threadIdx.x == 0) b_enc[f] = 0.0f;
}

}  // namespace ms
