// Features above 0, or above a threshold of their own, (or NaN) are taken from the tile; each row collects its own,
// features ascending.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../core/entry.h"
#include "../core/parallel.h"
#include "kernels.h"
#include "rescore-inl.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

template <class T>
static void threshold_filter_row(const T* row, const Tile& t, std::vector<Entry>& out, float threshold) {
  int64_t c = 0;
  for (; c + MS_WIDTH <= t.cols; c += MS_WIDTH) {
    const vf v = load(row + c) + load(t.bias + c);
    uint32_t mask = mask_above(v, splat(threshold));
    while (mask) {
      const int lane = __builtin_ctz(mask);
      mask &= mask - 1;
      out.push_back({v[lane], int32_t(t.first + c + lane)});
    }
  }
  for (; c < t.cols; ++c) {
    const float v = load1(row + c) + t.bias[c];
    if (!(v <= threshold)) out.push_back({v, int32_t(t.first + c)});
  }
}

static void threshold_filter(const Tile& t, RowBuffers& rows, int threads) {
  parallel_for(t.rows, 16, threads, [&](int64_t begin, int64_t end) {
    dispatch_dtype({t.data, t.dtype, 0}, [&](const auto* tile) {
      for (int64_t r = begin; r < end; ++r)
        threshold_filter_row(tile + r * t.stride, t, rows[r], t.bounds.token ? -t.bounds.token[r] : 0.0f);
    });
  });
}

// Drops entries that are not above their feature's threshold; above 0 where there is none.
static void keep_active(std::vector<Entry>& row, const float* threshold) {
  const auto inactive = [&](const Entry& e) { return e.value <= (threshold ? threshold[e.index] : 0.0f); };
  row.erase(std::remove_if(row.begin(), row.end(), inactive), row.end());
}

// Rescores a row's candidates in fp32 and drops those that are not active.
template <class T>
static void rescore_active(std::vector<Entry>& row, const float* token, const T* weights, const Exact& e) {
  rescore_rest(list_of(row, token), 0, weights, e.bias, e.w.d);
  keep_active(row, e.threshold);
}

static Rescored threshold_rescore(RowBuffers& rows, int64_t n, const Exact& e, int threads) {
  return parallel_sum<Rescored>(n, 4, threads, [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    dispatch_dtype(e.w, [&](const auto* weights) {
      for (int64_t r = begin; r < end; ++r) {
        count += int64_t(rows[r].size());
        rescore_active(rows[r], e.x + r * e.w.d, weights, e);
      }
    });
    return Rescored{count, count};
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
