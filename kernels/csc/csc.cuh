// A code's entries sorted by feature, those of one feature in the order of their tokens: a stable radix sort of int32
// with two passes up to 2²⁰ features. Counters are integers and every entry's place is computed, so the result is the
// same every run.
#pragma once

#include "../common/common.cuh"

namespace ms {

constexpr int kSortThreads = 256, kSortRounds = 8;
constexpr int kSortWarps = kSortThreads / kWarp;
constexpr int kSortTile = kSortThreads * kSortRounds;  // entries of a block
constexpr int kMaxDigitBits = 10;

struct SortPass {
  const int32_t* keys;      // features, in the order of the pass before
  const int32_t* payload;   // entries; null in the first pass, where they are their own positions
  int64_t length, blocks;
  int shift, bits;
  MS_DEVICE int digits() const { return 1 << bits; }
  MS_DEVICE int digit(int64_t i) const { return (keys[i] >> shift) & (digits() - 1); }
};

// counts[digit, block] of the block's tile.
__global__ void __launch_bounds__(kSortThreads) sort_count_kernel(SortPass pass, int32_t* counts) {
  int* histogram = shared_memory<int>();
  for (int i = threadIdx.x; i < pass.digits(); i += blockDim.x) histogram[i] = 0;
  __syncthreads();
  const int64_t first = int64_t(blockIdx.x) * kSortTile;
  for (int r = 0; r < kSortRounds; ++r) {
    const int64_t i = first + r * kSortThreads + threadIdx.x;
    if (i < pass.length) atomicAdd(histogram + pass.digit(i), 1);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < pass.digits(); i += blockDim.x)
    counts[int64_t(i) * pass.blocks + blockIdx.x] = histogram[i];
}

// One block per digit: its counts become the number of equal digits in earlier tiles; totals[digit] of all.
__global__ void __launch_bounds__(kSortThreads) sort_scan_kernel(int32_t* counts, int64_t blocks,
                                                                         int32_t* totals) {
  int* slots = shared_memory<int>();
  int32_t* row = counts + int64_t(blockIdx.x) * blocks;
  int carry = 0;
  for (int64_t first = 0; first < blocks; first += kSortThreads) {
    const int64_t i = first + threadIdx.x;
    const int value = i < blocks ? row[i] : 0;
    int total;
    const int before = exclusive_sum(value, slots, total);
    if (i < blocks) row[i] = carry + before;
    carry += total;
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}

struct SortOutput {
  int32_t *keys, *payload;  // of the next pass; keys also after the last, for the starts
  int64_t* entries;         // both in the last pass only, instead of the payload
  int32_t* tokens;
  const int64_t* offsets;
  int64_t n;
};

// Entries to their places. Shared memory: a counter of each digit for each warp, each digit's first place, 8 slots.
__global__ void __launch_bounds__(kSortThreads) sort_place_kernel(SortPass pass, const int32_t* counts,
                                                                          const int32_t* totals, SortOutput out) {
  const int digits = pass.digits(), lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int* counters = shared_memory<int>();
  int* places = counters + kSortWarps * digits;
  int* slots = places + digits;
  for (int i = threadIdx.x; i < kSortWarps * digits; i += kSortThreads) counters[i] = 0;
  int carry = 0;  // where each digit begins, then where this block's entries of it do
  for (int first = 0; first < digits; first += kSortThreads) {
    const int i = first + threadIdx.x;
    int total;
    const int before = exclusive_sum(i < digits ? totals[i] : 0, slots, total);
    if (i < digits) places[i] = carry + before + counts[int64_t(i) * pass.blocks + blockIdx.x];
    carry += total;
  }
  __syncthreads();
  // A warp has a contiguous part of the tile, so order is: warp, round, lane.
  const int64_t first = int64_t(blockIdx.x) * kSortTile + int64_t(warp) * kSortRounds * kWarp + lane;
  int* mine = counters + warp * digits;
  int digit[kSortRounds], rank[kSortRounds];
#pragma unroll
  for (int r = 0; r < kSortRounds; ++r) {
    const int64_t i = first + r * kWarp;
    digit[r] = i < pass.length ? pass.digit(i) : digits;
    const unsigned equal = __match_any_sync(kAllLanes, digit[r]);
    const unsigned below = equal & ((1u << lane) - 1u);
    rank[r] = 0;
    if (digit[r] < digits) rank[r] = mine[digit[r]] + __popc(below);
    __syncwarp();
    if (digit[r] < digits && below == 0) mine[digit[r]] += __popc(equal);
    __syncwarp();
  }
  __syncthreads();
  for (int i = threadIdx.x; i < digits; i += kSortThreads) {
    int place = places[i];
    for (int w = 0; w < kSortWarps; ++w) {
      const int count = counters[w * digits + i];
      counters[w * digits + i] = place;
      place += count;
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kSortRounds; ++r) {
    if (digit[r] == digits) continue;
    const int64_t i = first + r * kWarp, place = mine[digit[r]] + rank[r];
    const int32_t entry = pass.payload ? pass.payload[i] : int32_t(i);
    out.keys[place] = pass.keys[i];
    if (out.entries) {
      out.entries[place] = entry;
      out.tokens[place] = int32_t(upper_bound(out.offsets, out.n + 1, int64_t(entry)) - 1);
    } else {
      out.payload[place] = entry;
    }
  }
}

// starts[f]: the first place whose feature is ≥ f.
__global__ void __launch_bounds__(256) sort_starts_kernel(const int32_t* keys, int64_t length, int64_t features,
                                                                 int64_t* starts) {
  const int64_t f = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (f <= features) starts[f] = lower_bound(keys, length, f);
}

}  // namespace ms
