// The K largest of a row's candidates: exact, the largest first, among equals the lowest index.
#pragma once

#include "common.cuh"

namespace ms {

// A candidate as one number whose order is the contract's: greater value first, then lower index. 0 is below them all.
MS_DEVICE uint64_t candidate(float value, int32_t index) {
  const unsigned bits = __float_as_uint(value == 0.0f ? 0.0f : value);  // −0 equals 0
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(ordered) << 32 | unsigned(~unsigned(index));
}

MS_DEVICE float candidate_value(uint64_t c) {
  const unsigned ordered = unsigned(c >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

MS_DEVICE int32_t candidate_index(uint64_t c) { return int32_t(~unsigned(c)); }

// Bitonic sort, descending, of `size` (a power of two) numbers by the block.
MS_DEVICE void sort_descending(uint64_t* c, int64_t size) {
  for (int64_t run = 2; run <= size; run *= 2)
    for (int64_t gap = run / 2; gap > 0; gap /= 2) {
      for (int64_t pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
        const int64_t low = ((pair & ~(gap - 1)) << 1) | (pair & (gap - 1)), high = low + gap;
        const uint64_t a = c[low], b = c[high];
        if ((a < b) == ((low & run) == 0)) c[low] = b, c[high] = a;
      }
      __syncthreads();
    }
}

// One block a row. count[row] of the row's `capacity` candidates are there; fewer than k means that what is missing was
// −∞, and the lowest features that are not among the candidates stand for it. `workspace` holds `room` candidates a row
// (a power of two ≥ capacity and k), or is null when they fit into shared memory, behind 32 slots.
__global__ void __launch_bounds__(256) topk_select_kernel(const float* scores, const int32_t* features,
                                                                 const int32_t* count, int64_t capacity, int64_t k,
                                                                 uint64_t* workspace, int64_t room, float* values,
                                                                 int32_t* indices) {
  int* slots = shared_memory<int>();
  const int64_t row = blockIdx.x, n = count[row] < capacity ? count[row] : capacity;
  uint64_t* c = workspace ? workspace + row * room : reinterpret_cast<uint64_t*>(slots + 32);
  const float* score = scores + row * capacity;
  const int32_t* feature = features + row * capacity;
  int64_t size = 1;
  while (size < n || size < k) size *= 2;
  bool nan = false;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    c[i] = i < n ? candidate(score[i], feature[i]) : 0;
    nan |= i < n && score[i] != score[i];
  }
  nan = __syncthreads_or(nan);
  if (n < k && !nan) {
    int64_t filled = n;
    for (int64_t first = 0; first < k; first += blockDim.x) {  // the lowest k − n that are free are all below k
      const int64_t f = first + threadIdx.x;
      bool free = f < k;
      for (int64_t i = 0; free && i < n; ++i) free = feature[i] != f;
      int total;
      const int64_t at = filled + exclusive_sum(int(free), slots, total);
      if (free && at < k) c[at] = candidate(-INFINITY, int32_t(f));
      filled += total;
    }
    __syncthreads();
  }
  if (!nan) sort_descending(c, size);
  for (int64_t j = threadIdx.x; j < k; j += blockDim.x) {
    const float value = candidate_value(c[j]);
    values[row * k + j] = nan ? NAN : value <= 0.0f ? 0.0f : value;
    indices[row * k + j] = nan ? int32_t(j) : candidate_index(c[j]);
  }
}

}  // namespace ms
