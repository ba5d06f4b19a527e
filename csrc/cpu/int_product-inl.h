// The product of one panel of tokens by one panel of features, in integers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quantize-inl.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

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
static __attribute__((noinline)) void int_gemm_registers(const uint32_t* x, const uint32_t* w, int64_t n, const int32_t* start,
                                                         const Prefetch& prefetch, vi (&out)[kTokenPanel<T>][2]) {
  constexpr int kTokens = int(kTokenPanel<T>);
  vi sum[kTokens][2];
  vi begin0, begin1;
  __builtin_memcpy(&begin0, start, sizeof begin0);
  __builtin_memcpy(&begin1, start + MS_WIDTH, sizeof begin1);
  for (int i = 0; i < kTokens; ++i) sum[i][0] = begin0, sum[i][1] = begin1;
  const char* panel = prefetch.panel;
  for (int64_t part = 0, g = 0; part < Prefetch::kRows; ++part) {
    const char* row = prefetch.row[part];
    for (const int64_t end = n * (part + 1) / Prefetch::kRows; g < end; ++g) {
      prefetch_line(row);
      __builtin_prefetch(panel);
      row += prefetch.step;
      panel += prefetch.panel_step;
      vi w0, w1;
      __builtin_memcpy(&w0, w, sizeof w0);
      __builtin_memcpy(&w1, w + MS_WIDTH, sizeof w1);
#pragma GCC unroll 12
      for (int i = 0; i < kTokens; ++i) {
        const vi token = vi{} + int32_t(x[i]);
        sum[i][0] = add_products(T{}, sum[i][0], token, w0);
        sum[i][1] = add_products(T{}, sum[i][1], token, w1);
      }
      x += kTokens;
      w += kFeaturePanel;
    }
  }
  for (int i = 0; i < kTokens; ++i) out[i][0] = sum[i][0], out[i][1] = sum[i][1];
}

template <class T, class Meanwhile>
MS_INLINE void int_gemm_tile(T, const uint32_t* x, const uint32_t* w, int64_t n, const int32_t* start, const Prefetch& prefetch,
                             vi (&out)[kTokenPanel<T>][2], const Meanwhile&) {
  int_gemm_registers<T>(x, w, n, start, prefetch, out);
}

#if defined(MS_TILES)
// The tile registers of a thread while this lives: 8 of 16 rows of 64 bytes.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, zeros[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int i = 0; i < 8; ++i) shape.bytes[i] = 64, shape.rows[i] = 16;
    _tile_loadconfig(&shape);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// The same in tiles: 2 × 2 of sums, 0 to 3, of two tiles of tokens, 4 and 5, and two of features, 6 and 7. Between the
// tiles, meanwhile(from, to) is called with parts of the numbers below kTokenPanel, all of them in the end.
template <class Meanwhile>
MS_INLINE void int_gemm_tile(int8_t, const uint32_t* x, const uint32_t* w, int64_t n, const int32_t* start, const Prefetch& prefetch,
                             vi (&out)[kTokenPanel<int8_t>][2], const Meanwhile& meanwhile) {
  constexpr int64_t kRow = 16, kTile = 16 * kRow, kBytes = sizeof *x;
  _tile_loadd(0, start, 0);  // the same row 16 times
  _tile_loadd(1, start + kRow, 0);
  _tile_loadd(2, start, 0);
  _tile_loadd(3, start + kRow, 0);
  constexpr int kTokens = int(kTokenPanel<int8_t>);
  const int each = int((kTokens * kRow + n - 1) / n);  // of `meanwhile`, per step
  int done = 0;
  const char* panel = prefetch.panel;
  for (int64_t g = 0; g < n; g += kRow) {
    _tile_loadd(6, w, kBytes * kFeaturePanel);
    _tile_stream_loadd(4, x, kBytes * kRow);
    _tile_loadd(7, w + kRow, kBytes * kFeaturePanel);
    _tile_stream_loadd(5, x + kTile, kBytes * kRow);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
    for (int64_t i = 0; i < kRow / Prefetch::kRows; ++i)
      for (const char* row : prefetch.row) __builtin_prefetch(row + (g / Prefetch::kRows + i) * prefetch.step);
    for (const char* end = panel + kRow * prefetch.panel_step; panel < end; panel += 64) __builtin_prefetch(panel);
    const int next = std::min(done + each, kTokens);
    meanwhile(done, next);
    done = next;
    x += 2 * kTile;
    w += kRow * kFeaturePanel;
  }
  constexpr int64_t kStride = sizeof out[0];
  _tile_stored(0, &out[0][0], kStride);
  _tile_stored(1, &out[0][1], kStride);
  _tile_stored(2, &out[kRow][0], kStride);
  _tile_stored(3, &out[kRow][1], kStride);
}
#else
struct TileRegisters {  // there are none
  TileRegisters() {}
};
#endif

}  // namespace ms::MS_ISA
MS_TARGET_END
