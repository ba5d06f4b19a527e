// The encoder's integer product, and the selection while its sums are in registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../core/parallel.h"
#include "kernels.h"
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

// a + b as the instructions add: sums of rows that hold NaN wrap around, and such rows go by fp32.
MS_INLINE vi wrapping(vi a, vi b) { return (vi)((vu)a + (vu)b); }

// acc + the products of the two 16-bit halves of each lane.
MS_INLINE vi add_products(int16_t, vi acc, vi token, vi feature) {
#if defined(MS_VNNI) && MS_WIDTH == 16
  return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)token, (__m512i)feature);
#elif defined(MS_VNNI)
  return (vi)_mm256_dpwssd_avx_epi32((__m256i)acc, (__m256i)token, (__m256i)feature);
#elif MS_WIDTH == 16 && defined(MS_X86)
  return wrapping(acc, (vi)_mm512_madd_epi16((__m512i)token, (__m512i)feature));
#elif MS_WIDTH == 8 && defined(MS_X86)
  return wrapping(acc, (vi)_mm256_madd_epi16((__m256i)token, (__m256i)feature));
#elif defined(MS_X86)
  return wrapping(acc, (vi)_mm_madd_epi16((__m128i)token, (__m128i)feature));
#else
  const vu t = (vu)token, f = (vu)feature;
  const vi low = ((vi)(t << 16) >> 16) * ((vi)(f << 16) >> 16), high = (token >> 16) * (feature >> 16);
  return wrapping(wrapping(acc, low), high);
#endif
}

// acc + the products of the four bytes of each lane: of the token without a sign, of the feature with one. Without the
// instruction it is right, but slow: such processors use 16 bits.
MS_INLINE vi add_products(int8_t, vi acc, vi token, vi feature) {
#if defined(MS_VNNI) && MS_WIDTH == 16
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)token, (__m512i)feature);
#elif defined(MS_VNNI)
  return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)token, (__m256i)feature);
#else
  for (int i = 0; i < 32; i += 8)
    acc = wrapping(acc, (vi)((vu)token >> i & 255u) * ((vi)((vu)feature << (24 - i)) >> 24));
  return acc;
#endif
}

inline const char kNothing[64] = {};

// Addresses to prefetch during the next product, a few with each group of columns: all at once would queue up.
struct Prefetch {
  static constexpr int kRows = 4;
  const char* row[kRows] = {kNothing, kNothing, kNothing, kNothing};  // one after the other, for an equal share of groups
  int64_t step = 0;                                                   // bytes from one group to the next
  const char* panel = kNothing;                                       // beside the rows
  int64_t panel_step = 0;
};

// Sums of kTokenPanel tokens × kFeaturePanel features over all groups of columns. Not inlined: inlined, the compiler
// spills the sums in every iteration for the sake of the code that reads them later.
template <class T>
static __attribute__((noinline)) void int_gemm_tile(const uint32_t* x, const uint32_t* w, int64_t n, const int32_t* start,
                                                 const Prefetch& prefetch, vi (&out)[kTokenPanel][2]) {
  vi sum[kTokenPanel][2];
  vi begin0, begin1;
  __builtin_memcpy(&begin0, start, sizeof begin0);
  __builtin_memcpy(&begin1, start + MS_WIDTH, sizeof begin1);
  for (int i = 0; i < kTokenPanel; ++i) sum[i][0] = begin0, sum[i][1] = begin1;
  const char* panel = prefetch.panel;
  for (int64_t part = 0, g = 0; part < Prefetch::kRows; ++part) {
    const char* row = prefetch.row[part];
    for (const int64_t end = n * (part + 1) / Prefetch::kRows; g < end; ++g) {
      __builtin_prefetch(row);
      __builtin_prefetch(panel);
      row += prefetch.step;
      panel += prefetch.panel_step;
      vi w0, w1;
      __builtin_memcpy(&w0, w, sizeof w0);
      __builtin_memcpy(&w1, w + MS_WIDTH, sizeof w1);
#pragma GCC unroll 12
      for (int i = 0; i < kTokenPanel; ++i) {
        const vi token = vi{} + int32_t(x[i]);
        sum[i][0] = add_products(T{}, sum[i][0], token, w0);
        sum[i][1] = add_products(T{}, sum[i][1], token, w1);
      }
      x += kTokenPanel;
      w += kFeaturePanel;
    }
  }
  for (int i = 0; i < kTokenPanel; ++i) out[i][0] = sum[i][0], out[i][1] = sum[i][1];
}

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

// Panels `begin` to `end` of tokens stay in the second-level cache while panels of features stream through the first.
// Each token meets its features in ascending order. accept(row, hits, first) is called for features whose upper bound
// exceeds the row's threshold; thresholds(row) points to those of a whole panel. overlap() is called before each product of two panels; it does work that waits on memory, and
// returns the addresses that the product is to prefetch.
//
// All tokens of a panel are first compared with their threshold minus the largest error bound of the panel; only if one
// exceeds it are the bounds of single features added. One branch per panel, not one per token, has to be predicted.
template <class T, class Thresholds, class Accept, class Overlap>
MS_INLINE void int_gemm_filter(const IntTile& t, const PanelBounds& most, int64_t begin, int64_t end, const Thresholds& thresholds,
                               const Accept& accept, const Overlap& overlap) {
  const int64_t n = groups<T>(t.d);
  const uint32_t *x = static_cast<const uint32_t*>(t.x), *w = static_cast<const uint32_t*>(t.w);
  const ErrorBounds& e = t.bounds;
  const int64_t share = (int64_t(sizeof *w) * kFeaturePanel + (end - begin) - 1) / (end - begin);  // bytes per group
  for (int64_t f = 0; f < t.cols; f += kFeaturePanel) {
    const vf scale[2] = {load(t.scale + f), load(t.scale + f + MS_WIDTH)};
    const vf bias[2] = {load(t.bias + f), load(t.bias + f + MS_WIDTH)};
    const float *norm = e.norm + f, *off = e.off + f;
    const float largest_norm = most.norm[f / kFeaturePanel], largest_off = most.off[f / kFeaturePanel];
    for (int64_t p = begin; p < end; ++p) {
      Prefetch prefetch = overlap();
      if (f + kFeaturePanel < t.cols) {  // this panel of tokens' share of the next panel of features
        prefetch.panel = reinterpret_cast<const char*>(w + (f + kFeaturePanel) * n) + (p - begin) * n * share;
        prefetch.panel_step = share;
      }
      vi sum[kTokenPanel][2];
      int_gemm_tile<T>(x + p * n * kTokenPanel, w + f * n, n, t.start + f, prefetch, sum);
      const int64_t first = p * kTokenPanel;
      const float* known = thresholds(first);
      const float *token_off = e.token_off + first, *token_norm = e.token_norm + first, *token = e.token + first;
      float lowest[kTokenPanel];
      for (int64_t i = 0; i < kTokenPanel; ++i)  // of a known length: in vectors
        lowest[i] = known[i] - (token_off[i] * largest_norm + (token_norm[i] * largest_off + token[i]));
      for (int64_t i = t.rows - first; i < kTokenPanel; ++i) lowest[i] = std::numeric_limits<float>::infinity();
      uint32_t some = 0;
#pragma GCC unroll 12
      for (int i = 0; i < kTokenPanel; ++i) {
        const vf by = splat(t.token_scale[first + i]), offset = splat(t.token_offset[first + i]);
        const vf v0 = (__builtin_convertvector(sum[i][0], vf) - offset) * (by * scale[0]) + bias[0];
        const vf v1 = (__builtin_convertvector(sum[i][1], vf) - offset) * (by * scale[1]) + bias[1];
        some |= uint32_t(mask_above(v0 > v1 ? v0 : v1, splat(lowest[i])) != 0) << i;
      }
      for (; some; some &= some - 1) {
        const int i = __builtin_ctz(some);
        const int64_t r = first + i;
        Hits<2> hits;
        for (int half = 0; half < 2; ++half) {
          hits.error[half] = splat(e.token_off[r]) * load(norm + half * MS_WIDTH) +
                             (splat(e.token_norm[r]) * load(off + half * MS_WIDTH) + splat(e.token[r]));
          const vf token = splat(t.token_scale[r]), offset = splat(t.token_offset[r]);
          const vf value = (__builtin_convertvector(sum[i][half], vf) - offset) * (token * scale[half]) + bias[half];
          hits.upper[half] = value + hits.error[half];
          hits.mask[half] = mask_above(hits.upper[half], splat(known[i]));
        }
        accept(r, hits, int32_t(f));
      }
    }
  }
}

// Blocks of token panels: of a size that fits the second-level cache, and many per worker, so that no worker waits long
// for the others at the end, when each rescores its last block without a product to overlap with.
struct Blocks {
  int64_t panels, count;

  template <class T>
  static Blocks of(const IntTile& t, int threads) {
    const int64_t panels = (t.rows + kTokenPanel - 1) / kTokenPanel, least = 16 * threads;
    const int64_t hot = std::max<int64_t>(1, (int64_t{1} << 18) / (4 * groups<T>(t.d) * kTokenPanel));
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
    const int32_t start[kFeaturePanel] = {};
    vi sum[kTokenPanel][2];
    for (int64_t i = 0; i < (end - begin) * times; ++i) {
      int_gemm_tile<T>(x, w, groups<T>(d), start, Prefetch{}, sum);
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
