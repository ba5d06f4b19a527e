// TopK: candidates are taken from a tile while it is in cache; the first k of them are the answer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "../core/entry.h"
#include "../core/parallel.h"
#include "kernels.h"
#include "rescore-inl.h"
#include "select-inl.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

template <class T>
static void topk_filter_row(const T* row, const Tile& t, const TopkState& s, int64_t r) {
  const vf error = splat(t.bounds.token ? t.bounds.token[r] : 0.0f);
  const auto offer = [&](vf v, uint32_t lanes, int64_t c) {
    v += error;
    uint32_t mask = mask_above(v, splat(s.threshold[r])) & lanes;
    if (!mask) return;
    const uint32_t bad = mask_above(v, splat(std::numeric_limits<float>::infinity())) & lanes;  // above it: NaN
    if (bad) s.flags[r] |= kNaN;
    if ((mask &= ~bad)) append(Hits<1>{{v}, {error}, {mask}}, Consecutive{int32_t(t.first + c)}, s, r);
  };
  int64_t c = 0;
  for (; c + MS_WIDTH <= t.cols; c += MS_WIDTH) offer(load(row + c) + load(t.bias + c), kAllLanes, c);
  for (; c < t.cols; ++c) offer(splat(load1(row + c) + t.bias[c]), 1, c);
}

static void topk_filter(const Tile& t, const TopkState& s, int threads) {
  parallel_for(t.rows, 16, threads, [&](int64_t begin, int64_t end) {
    dispatch_dtype({t.data, t.dtype, 0}, [&](const auto* tile) {
      for (int64_t r = begin; r < end; ++r) topk_filter_row(tile + r * t.stride, t, s, r);
    });
  });
}

// Fewer than k candidates: the missing values were −∞, and the contract takes the lowest indices.
static void fill_missing(float* values, int32_t* indices, int32_t count, int64_t k) {
  std::vector<int32_t> taken(indices, indices + count);
  std::sort(taken.begin(), taken.end());
  int32_t next = 0;
  for (int64_t i = count; i < k; ++next)
    if (!std::binary_search(taken.begin(), taken.end(), next)) {
      values[i] = -std::numeric_limits<float>::infinity();
      indices[i++] = next;
    }
}

// The first k of n in order: the rank of each is the number of those before it.
static void write_ranked(const float* values, const int32_t* indices, int32_t n, int64_t k, float* out, int32_t* features) {
  const auto put = [&](int64_t rank, float value, int32_t index) {
    out[rank] = value <= 0 ? 0.0f : value;
    features[rank] = index;
  };
  if (n > 256) {  // counting is quadratic: beyond this a sort is cheaper
    std::vector<Entry> all(n);
    for (int32_t i = 0; i < n; ++i) all[i] = {values[i], indices[i]};
    std::partial_sort(all.begin(), all.begin() + k, all.end(), Before{});
    for (int64_t i = 0; i < k; ++i) put(i, all[i].value, all[i].index);
    return;
  }
  for (int32_t i = 0; i < n; ++i) {
    const vf value = splat(values[i]);
    const vi index = vi{} + indices[i];
    vi before = {};
    for (int32_t j = 0; j < n; j += MS_WIDTH) {
      vi at;
      __builtin_memcpy(&at, indices + j, sizeof at);
      const vf other = load(values + j);
      before -= (other > value) | ((other == value) & (at < index));
    }
    int32_t rank = 0;
    for (int lane = 0; lane < MS_WIDTH; ++lane) rank += before[lane];
    if (rank < k) put(rank, values[i], indices[i]);
  }
}

// The answer of row r from its candidates.
static void finish_row(const TopkState& s, int64_t r, float* values, int32_t* indices) {
  float* v = s.upper + r * s.capacity;
  int32_t* i = s.indices + r * s.capacity;
  int32_t n = s.count[r];
  if (s.flags[r] & kNaN) {
    for (int64_t j = 0; j < s.k; ++j) values[j] = std::numeric_limits<float>::quiet_NaN(), indices[j] = int32_t(j);
    return;
  }
  if (s.flags[r] & kOverflow) n = 0;  // the caller redoes the row
  if (n > s.k) n = keep_at_least(v, nullptr, i, n, kth_lower_bound(v, n, s.k, -std::numeric_limits<float>::infinity()));
  if (n < s.k) fill_missing(v, i, n, s.k), n = int32_t(s.k);
  store(v + n, splat(-std::numeric_limits<float>::infinity()));  // `write_ranked` reads a vector: entries beyond n rank before nothing
  for (int lane = 0; lane < MS_WIDTH; ++lane) i[n + lane] = std::numeric_limits<int32_t>::max();
  write_ranked(v, i, n, s.k, values, indices);
}

static void topk_finish(const TopkState& s, int64_t rows, float* values, int32_t* indices, int threads) {
  parallel_for(rows, 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) finish_row(s, r, values + r * s.k, indices + r * s.k);
  });
}

// Rescoring the candidates of row r takes two passes: first the k with the largest upper bounds, then those of the others
// whose upper bound reaches the smallest of these scores. The rest are dropped unscored. Scores are written to `lower`,
// which is not needed any more.

// Rows that are not rescored: those to be redone, and those with a NaN. Both lists are empty.
constexpr uint8_t kUnscored = kNaN | kOverflow;

// Moves the candidates of the first pass to the front; returns how many.
static int32_t first_pass(const TopkState& s, int64_t r) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  if (!(s.flags[r] & kUnscored)) prune(s, r);
  if (s.flags[r] & kUnscored) return 0;
  float* upper = s.upper + r * s.capacity;
  int32_t* indices = s.indices + r * s.capacity;
  const float kth = s.count[r] > s.k ? kth_lower_bound(upper, s.count[r], s.k, kNone) : kNone;
  int32_t first = 0, last = s.count[r];  // those that reach it to the front, the others behind them
  while (first < last) {
    if (upper[first] >= kth) ++first;
    else --last, std::swap(upper[first], upper[last]), std::swap(indices[first], indices[last]);
  }
  return first;
}

// Moves the candidates of the second pass behind the `first` that are rescored; returns where they end.
static int32_t second_pass(const TopkState& s, int64_t r, int32_t first) {
  if (s.flags[r] & kUnscored) return 0;
  const int64_t at = r * s.capacity;
  float kth = -std::numeric_limits<float>::infinity();
  if (first >= s.k) kth = *std::min_element(s.lower + at, s.lower + at + first);
  return first + keep_at_least(s.upper + at + first, nullptr, s.indices + at + first, s.count[r] - first, kth);
}

// All n candidates of both passes are rescored; of how many, unless the row is not.
static Rescored finish_rescoring(const TopkState& s, int64_t r, int32_t n) {
  const Rescored row{s.flags[r] & kUnscored ? 0 : s.count[r], n};
  s.count[r] = n;
  std::copy(s.lower + r * s.capacity, s.lower + r * s.capacity + n, s.upper + r * s.capacity);
  return row;
}

// Candidates `from` to `to` of row r, to be rescored.
MS_INLINE CandidateList list_of(const TopkState& s, int64_t r, int32_t from, int32_t to, const float* token) {
  const int64_t at = r * s.capacity + from;
  return {s.lower + at, s.indices + at, to - from, 1, token};
}

template <class T>
static Rescored rescore_row(const TopkState& s, int64_t r, const float* token, const T* weights, const float* bias,
                            int64_t d) {
  const int32_t first = first_pass(s, r);
  rescore_rest(list_of(s, r, 0, first, token), 0, weights, bias, d);
  const int32_t all = second_pass(s, r, first);
  rescore_rest(list_of(s, r, first, all, token), 0, weights, bias, d);
  return finish_rescoring(s, r, all);
}

static Rescored topk_rescore(const TopkState& s, int64_t rows, const float* x, const Weights& w, const float* bias,
                             int threads) {
  return parallel_sum<Rescored>(rows, 16, threads, [&](int64_t begin, int64_t end) {
    Rescored sum;
    dispatch_dtype(w, [&](const auto* weights) {
      for (int64_t r = begin; r < end; ++r) sum += rescore_row(s, r, x + r * w.d, weights, bias, w.d);
    });
    return sum;
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
