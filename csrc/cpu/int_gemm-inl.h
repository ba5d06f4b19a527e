// The encoder's integer product, and the selection while its sums are in the first cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <vector>

#include "../core/parallel.h"
#include "int_product-inl.h"
#include "kernels.h"
#include "lists-inl.h"
#include "quantize-inl.h"
#include "select-inl.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

#if defined(MS_VNNI)
constexpr bool kFastInt8 = true;
#else
constexpr bool kFastInt8 = false;  // without the instruction, int16 is faster
#endif

// The largest numbers of each panel of features in the error bounds.
struct PanelBounds {
  std::vector<float> norm, off;

  explicit PanelBounds(const IntTile& t) : norm(t.cols / kFeaturePanel), off(norm.size()) {
    for (size_t p = 0; p < norm.size(); ++p) {
      norm[p] = size_of(t.bounds.norm + p * kFeaturePanel, kFeaturePanel).most;
      off[p] = size_of(t.bounds.off + p * kFeaturePanel, kFeaturePanel).most;
    }
  }
};

// Sums of a panel of tokens by a panel of features, and what they are held against.
//
// All tokens are first compared with their threshold minus the largest error bound of the panel; only if one exceeds it are
// the bounds of single features added. One branch per panel, not one per token, has to be predicted.
template <class T>
struct PanelSums {
  static constexpr int kTokens = int(kTokenPanel<T>);
  vi sum[kTokens][2];
  vf scale[2] = {}, bias[2] = {};
  float lowest[kTokens];
  const float* known = nullptr;         // thresholds of the tokens
  int64_t row = 0, feature = 0;         // the first of each
  uint32_t some = 0;                    // tokens, a bit each, that may have hits

  PanelSums() {  // none
    std::fill(&sum[0][0], &sum[0][0] + 2 * kTokens, vi{});
    std::fill(lowest, lowest + kTokens, std::numeric_limits<float>::infinity());
  }

  MS_METHOD void begin(const IntTile& t, const PanelBounds& most, int64_t first_row, int64_t first_feature, const float* thresholds) {
    row = first_row, feature = first_feature, known = thresholds;
    for (int half = 0; half < 2; ++half) {
      scale[half] = load(t.scale + feature + half * MS_WIDTH);
      bias[half] = load(t.bias + feature + half * MS_WIDTH);
    }
    const float *token_off = t.bounds.token_off + row, *token_norm = t.bounds.token_norm + row, *token = t.bounds.token + row;
    const float norm = most.norm[feature / kFeaturePanel], off = most.off[feature / kFeaturePanel];
    for (int64_t i = 0; i < kTokens; ++i)  // of a known length: in vectors
      lowest[i] = known[i] - (token_off[i] * norm + (token_norm[i] * off + token[i]));
    for (int64_t i = t.rows - row; i < kTokens; ++i) lowest[i] = std::numeric_limits<float>::infinity();
  }

  MS_METHOD vf value(const IntTile& t, int i, int half) const {
    const vf by = splat(t.token_scale[row + i]), offset = splat(t.token_offset[row + i]);
    return (__builtin_convertvector(sum[i][half], vf) - offset) * (by * scale[half]) + bias[half];
  }

  MS_METHOD void compare(const IntTile& t, int from, int to) {
#pragma GCC unroll 12
    for (int i = from; i < to; ++i) {
      const vf v0 = value(t, i, 0), v1 = value(t, i, 1);
      some |= uint32_t(mask_above(v0 > v1 ? v0 : v1, splat(lowest[i])) != 0) << i;
    }
  }

  // accept(row, hits, first) for features whose upper bound exceeds the row's threshold.
  template <class Accept>
  MS_METHOD void offer(const IntTile& t, const Accept& accept) {
    const ErrorBounds& e = t.bounds;
    const float *norm = e.norm + feature, *off = e.off + feature;
    for (; some; some &= some - 1) {
      const int i = __builtin_ctz(some);
      const int64_t r = row + i;
      Hits<2> hits;
      for (int half = 0; half < 2; ++half) {
        hits.error[half] = splat(e.token_off[r]) * load(norm + half * MS_WIDTH) +
                           (splat(e.token_norm[r]) * load(off + half * MS_WIDTH) + splat(e.token[r]));
        hits.upper[half] = value(t, i, half) + hits.error[half];
        hits.mask[half] = mask_above(hits.upper[half], splat(known[i]));
      }
      accept(r, hits, int32_t(feature));
    }
  }
};

// The tokens of a panel that begins at `row`, as the product reads them.
template <class T>
MS_INLINE auto tokens_of(const IntTile& t, int64_t row, int64_t n) {
  if constexpr (std::is_same_v<T, Listed>) return Lists{static_cast<const uint64_t*>(t.x) + row * n, t.count + row};
  else return static_cast<const uint32_t*>(t.x) + row * n;
}

// Panels `begin` to `end` of tokens stay in the second-level cache while panels of features stream through the first.
// Each token meets its columns in ascending order. For accept see `PanelSums`; thresholds(row) points to those of a whole
// panel. overlap() is called before each product of two panels; it does work that waits on memory, and returns the
// addresses that the product is to prefetch.
//
// Tiles are multiplied beside the vector units, which meanwhile compare the sums of the product before.
template <class T, class Thresholds, class Accept, class Overlap>
MS_INLINE void int_gemm_filter(const IntTile& t, const PanelBounds& most, int64_t begin, int64_t end, const Thresholds& thresholds,
                               const Accept& accept, const Overlap& overlap) {
  constexpr int kTokens = int(kTokenPanel<T>);
  const int64_t n = groups<T>(t.d);
  const uint32_t* w = static_cast<const uint32_t*>(t.w);
  const int64_t share = (int64_t(sizeof *w) * kFeaturePanel + (end - begin) - 1) / (end - begin);  // bytes per group
  PanelSums<T> sums[kTiles<T> ? 2 : 1];
  PanelSums<T>*now = sums, *before = sums + (kTiles<T> ? 1 : 0);
  for (int64_t f = 0; f < t.cols; f += kFeaturePanel)
    for (int64_t p = begin; p < end; ++p) {
      Prefetch prefetch = overlap();
      if (f + kFeaturePanel < t.cols) {  // this panel of tokens' share of the next panel of features
        prefetch.panel = reinterpret_cast<const char*>(w + (f + kFeaturePanel) * n) + (p - begin) * n * share;
        prefetch.panel_step = share;
      }
      int_gemm_tile(T{}, tokens_of<T>(t, p * kTokens, n), w + f * n, n, t.start + f, prefetch, now->sum,
                    [&](int from, int to) MS_METHOD { before->compare(t, from, to); });
      now->begin(t, most, p * kTokens, f, thresholds(p * kTokens));
      if (!kTiles<T>) now->compare(t, 0, kTokens);
      before->offer(t, accept);
      std::swap(now, before);
    }
  if (!kTiles<T>) return;
  before->compare(t, 0, kTokens);
  before->offer(t, accept);
}

// Blocks of token panels: of a size that fits the second-level cache, and many per worker, so that no worker waits long
// for the others at the end, when each rescores its last block without a product to overlap with.
struct Blocks {
  int64_t panels, count;

  template <class T>
  static Blocks of(const IntTile& t, int threads) {
    const int64_t panels = (t.rows + kTokenPanel<T> - 1) / kTokenPanel<T>, least = (kTiles<T> ? 4 : 16) * threads;
    int64_t bytes = 4 * groups<T>(t.d) * kTokenPanel<T> * panels;  // of all tokens
    if constexpr (std::is_same_v<T, Listed>) bytes = 8 * std::accumulate(t.count, t.count + t.rows, int64_t{0});
    const int64_t hot = std::max<int64_t>(1, (panels << 18) / std::max<int64_t>(1, bytes));
    return {panels, std::min(panels, least * ((panels + least * hot - 1) / (least * hot)))};
  }
  int64_t first(int64_t block) const { return panels * block / count; }
  int64_t products(const IntTile& t, int64_t block) const {
    return (first(block + 1) - first(block)) * (t.cols / kFeaturePanel);
  }
};

template <class T>
static void int_gemm_repeat_of(const uint32_t* x, const uint32_t* w, int64_t d, int64_t times, int threads) {
  parallel_for(threads, 1, threads, [&](int64_t begin, int64_t end) {
    const TileRegisters registers;
    const int32_t start[kFeaturePanel] = {};
    vi sum[kTokenPanel<T>][2];
    for (int64_t i = 0; i < (end - begin) * times; ++i) {
      int_gemm_tile(T{}, x, w, groups<T>(d), start, Prefetch{}, sum, [](int, int) {});
      asm volatile("" : : "r"(sum) : "memory");  // or the compiler sees that nobody reads them
    }
  });
}

// The product of one panel by one panel, over and over by every worker: what the instructions alone can do.
static void int_gemm_repeat(IntProduct product, const uint32_t* x, const uint32_t* w, int64_t d, int64_t times, int threads) {
  (product == IntProduct::int8 ? int_gemm_repeat_of<int8_t> : int_gemm_repeat_of<int16_t>)(x, w, d, times, threads);
}

}  // namespace ms::MS_ISA
MS_TARGET_END
