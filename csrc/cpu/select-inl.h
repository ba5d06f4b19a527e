// Pruning of a row's candidates, by counting instead of sorting.
//
// Each candidate has an upper and a lower bound. The k-th largest lower bound is a valid threshold: no feature whose
// upper bound does not reach it can be in the top k. For exact values both bounds are the value, and features come in
// ascending order; an equal value that comes later loses to k earlier ones, so that `>` is right for ties.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../core/entry.h"
#include "kernels.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

constexpr float kHuge = 1e38f;

// How many of p[0 … n) are at least `threshold`; reads whole vectors.
MS_INLINE int32_t count_at_least(const float* p, int32_t n, float threshold) {
  int32_t count = 0;
  const vf least = splat(threshold);
  for (int32_t i = 0; i < n; i += MS_WIDTH) count += __builtin_popcount(mask_at_least(load(p + i), least));
  return count;
}

// A lower bound of the k-th largest of n values that few more than k reach: bisected until an eighth more do, or to a
// thousandth of their range. p has space for a vector beyond n. `known`: a bound that k of them reach already, or −∞.
MS_INLINE float kth_lower_bound(float* p, int32_t n, int64_t k, float known) {
  store(p + n, splat(-std::numeric_limits<float>::infinity()));
  vf largest = splat(-kHuge), smallest = splat(kHuge);
  for (int32_t i = 0; i < n; i += MS_WIDTH) {
    const vf v = load(p + i);
    largest = v > largest ? v : largest;
    smallest = (v < smallest) & (v > splat(-kHuge)) ? v : smallest;
  }
  float low = known, high = -kHuge, lowest = kHuge;
  for (int i = 0; i < MS_WIDTH; ++i) {
    high = std::max(high, largest[i]);
    lowest = std::min(lowest, smallest[i]);
  }
  if (low < lowest) {
    if (count_at_least(p, n, lowest) < k) return known;  // some are −∞
    low = lowest;
  }
  high = std::min(high, kHuge);
  for (int i = 0; i < 10; ++i) {
    const float middle = low + 0.5f * (high - low);
    if (!(middle > low)) break;
    const int32_t count = count_at_least(p, n, middle);
    if (count >= k) low = middle;
    else high = middle;
    if (count >= k && count <= k + k / 8) break;
  }
  return low;
}

// Moves the lanes of `mask` to p, packed; writes a whole vector.
MS_INLINE void pack_lanes(float* p, vf v, uint32_t mask) {
#if MS_WIDTH == 16 && defined(MS_X86)
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(__mmask16(mask), (__m512)v));
#else
  for (; mask; mask &= mask - 1) *p++ = v[__builtin_ctz(mask)];
#endif
}

MS_INLINE void pack_lanes(int32_t* p, vi v, uint32_t mask) {
#if MS_WIDTH == 16 && defined(MS_X86)
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(__mmask16(mask), (__m512i)v));
#else
  for (; mask; mask &= mask - 1) *p++ = v[__builtin_ctz(mask)];
#endif
}

MS_INLINE vi lanes_from(int32_t first) {
  vi lanes;
  for (int i = 0; i < MS_WIDTH; ++i) lanes[i] = i;  // a constant: sums lane by lane were 16 scalar ones
  return lanes + first;
}

// Moves those of n candidates whose value is at least `threshold` to the front; returns how many. `lower` may be null.
// All have space for a vector beyond n.
MS_INLINE int32_t keep_at_least(float* values, float* lower, int32_t* indices, int32_t n, float threshold) {
  store(values + n, splat(-std::numeric_limits<float>::infinity()));
  int32_t kept = 0;
  for (int32_t i = 0; i < n; i += MS_WIDTH) {
    const vf v = load(values + i);
    vi at;
    __builtin_memcpy(&at, indices + i, sizeof at);
    uint32_t mask = mask_at_least(v, splat(threshold));
    if (n - i < MS_WIDTH) mask &= (1u << (n - i)) - 1;
    pack_lanes(values + kept, v, mask);
    pack_lanes(indices + kept, at, mask);
    if (lower) pack_lanes(lower + kept, load(lower + i), mask);
    kept += __builtin_popcount(mask);
  }
  return kept;
}

// Exact values of which too many reach the threshold (ties): keeps the first k in the order of the contract.
static void keep_first(float* values, int32_t* indices, int32_t n, int64_t k) {
  std::vector<Entry> all(n);
  for (int32_t i = 0; i < n; ++i) all[i] = {values[i], indices[i]};
  std::nth_element(all.begin(), all.begin() + (k - 1), all.end(), Before{});
  std::swap(all[0], all[k - 1]);  // the last of them goes first, where the caller reads the threshold
  for (int64_t i = 0; i < k; ++i) values[i] = all[i].value, indices[i] = all[i].index;
}

// Below t, by a step or two: what reaches t exceeds it.
MS_INLINE float just_below(float t) { return t - (std::fabs(t) * 0x1p-23f + std::numeric_limits<float>::min()); }

// Raises row r's threshold to the k-th largest lower bound of its candidates, or just below where features come in any
// order and an equal one may have to go first, and drops those below it. The next pruning is due at half as many again: a
// higher threshold earlier saves more than the pruning costs. A row that keeps too many is flagged.
static void prune(const TopkState& s, int64_t r) {
  const int64_t at = r * s.capacity;
  float *upper = s.upper + at, *lower = s.lower ? s.lower + at : nullptr;
  int32_t* indices = s.indices + at;
  int32_t& n = s.count[r];
  const float kth = kth_lower_bound(lower ? lower : upper, n, s.k, s.threshold[r]);
  s.threshold[r] = lower ? std::max(s.threshold[r], just_below(kth)) : kth;
  n = keep_at_least(upper, lower, indices, n, s.threshold[r]);
  s.limit[r] = int32_t(std::min<int64_t>(n + n / 2 + 64, s.capacity - 3 * MS_WIDTH));
  if (n <= s.capacity - s.capacity / 4) return;
  if (lower) {
    s.flags[r] |= kOverflow;
    s.threshold[r] = std::numeric_limits<float>::infinity();
    n = 0;
  } else {
    keep_first(upper, indices, n, s.k);
    n = int32_t(s.k);
    s.threshold[r] = upper[0];
  }
}

// Values of consecutive features that may be candidates: the upper bound, the error bound (contained in `upper`), and a
// mask of those that are. None of these is NaN.
template <int V>
struct Hits {
  vf upper[V], error[V];
  uint32_t mask[V];
};

// The features of a few vectors: consecutive numbers from `first`, or those that stand at `number`.
struct Consecutive {
  int32_t first;
  MS_METHOD vi vector(int i) const { return lanes_from(first + i * MS_WIDTH); }
};

struct Numbered {
  const int32_t* number;
  MS_METHOD vi vector(int i) const {
    vi at;
    __builtin_memcpy(&at, number + i * MS_WIDTH, sizeof at);
    return at;
  }
};

// Appends them to the candidates of row r.
template <int V, class Features>
MS_INLINE void append(const Hits<V>& hits, const Features& features, const TopkState& s, int64_t r) {
  int64_t at = r * s.capacity + s.count[r];
  int32_t count = s.count[r];
  for (int i = 0; i < V; ++i) {
    pack_lanes(s.upper + at, hits.upper[i], hits.mask[i]);
    pack_lanes(s.indices + at, features.vector(i), hits.mask[i]);
    if (s.lower) pack_lanes(s.lower + at, hits.upper[i] - (hits.error[i] + hits.error[i]), hits.mask[i]);
    const int32_t appended = __builtin_popcount(hits.mask[i]);
    at += appended;
    count += appended;
  }
  s.count[r] = count;
  if (count > s.limit[r]) prune(s, r);
}

}  // namespace ms::MS_ISA
MS_TARGET_END
