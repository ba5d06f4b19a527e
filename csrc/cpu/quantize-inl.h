// Quantisation of rows to int16 or int8 for the encoder's product.
//
// A row r becomes round(r/s). In int16 s = ‖r‖/32512: by Cauchy-Schwarz every partial sum of a product of two such rows
// stays below 32,512² and so within 32 bits, whatever the width. In int8 r is rotated first (rotate-inl.h), s = max|r|/127,
// and the sums of 255·127 stay within 32 bits up to 66,000 columns. The rounding error of each row is measured, not assumed:
// its norm enters the error bound of a product (ops/selection/cpu_integers.py). With dither (dither-inl.h), int8 rows are
// round(r/s + u), s = max|r|/126.5, and the error bound follows from the draws u instead.
//
// Packed rows stand in panels: [panel][group of columns][row of the panel][columns of the group], a group being the 32
// bits that one instruction multiplies and adds: one load gives a group of a vector of features, and one broadcast that
// of a token. In tiles (AMX) a group of a token is 64 bytes, a row of a tile register, and rows are filled up to whole
// groups. The int8 instruction takes one unsigned factor: tokens are stored with 128 added, and the sum of a feature
// starts at −128 times the sum of its row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../core/parallel.h"
#include "dither-inl.h"
#include "kernels.h"
#include "rotate-inl.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

// The low bytes of a vector's numbers, packed into groups of 32 bits. Spelled out, because GCC moves each number by itself
// for __builtin_convertvector.
MS_INLINE void narrow(int8_t, vi v, uint32_t* groups) {
#if MS_WIDTH == 16 && defined(MS_X86)
  _mm_storeu_si128((__m128i*)groups, _mm512_cvtepi32_epi8((__m512i)v));
#elif MS_WIDTH == 8 && defined(MS_X86)
  const __m256i low = _mm256_set1_epi32(0x0c080400), each = _mm256_shuffle_epi8((__m256i)v, low);
  groups[0] = uint32_t(_mm256_extract_epi32(each, 0));
  groups[1] = uint32_t(_mm256_extract_epi32(each, 4));
#else
  for (int i = 0; i < MS_WIDTH; i += 4)
    groups[i / 4] = (uint32_t(v[i]) & 255u) | (uint32_t(v[i + 1]) & 255u) << 8 | (uint32_t(v[i + 2]) & 255u) << 16 |
                    uint32_t(v[i + 3]) << 24;
#endif
}

MS_INLINE void narrow(int16_t, vi v, uint32_t* groups) {
#if MS_WIDTH == 16 && defined(MS_X86)
  _mm256_storeu_si256((__m256i*)groups, _mm512_cvtepi32_epi16((__m512i)v));
#elif MS_WIDTH == 8 && defined(MS_X86)
  const __m256i low = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4,
                                       5, 8, 9, 12, 13);
  const __m256i each = _mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)v, low), 0b1000);
  _mm_storeu_si128((__m128i*)groups, _mm256_castsi256_si128(each));
#else
  for (int i = 0; i < MS_WIDTH; i += 2) groups[i / 2] = (uint32_t(v[i]) & 0xffffu) | uint32_t(v[i + 1]) << 16;
#endif
}

#if defined(MS_TILES)
template <class T>
constexpr bool kTiles = sizeof(T) == 1;  // whether rows of such numbers are multiplied in tiles of 16 rows of 64 bytes
#else
template <class>
constexpr bool kTiles = false;
#endif

// With 2 vectors of features: the registers there are.
template <class T>
constexpr int64_t kTokenPanel = kTiles<T> ? 32 : MS_WIDTH == 16 ? 12 : 6;
constexpr int64_t kFeaturePanel = 2 * MS_WIDTH;
constexpr float kInt16Norm = 32512;     // leaves room for the rounding of the norm
constexpr float kLeastSquare = 1e-30f;  // a shorter row becomes zeros: its square is no longer a good number

template <class T>
constexpr int64_t kGroup = 4 / int64_t(sizeof(T));  // columns

// Groups of columns that stand together in a panel of tokens: a row of a tile.
template <class T>
constexpr int64_t kTogether = kTiles<T> ? 16 : 1;

// Of a row; in tiles a whole number of them.
template <class T>
MS_INLINE int64_t groups(int64_t d) {
  constexpr int64_t columns = kGroup<T> * kTogether<T>;
  return (d + columns - 1) / columns * kTogether<T>;
}

template <class T>
static Panels panels_of(int64_t d) {
  return {kTokenPanel<T>, kFeaturePanel, kGroup<T> * kTogether<T>, kGroup<T>, groups<T>(d)};
}

static Panels panels(IntProduct product, int64_t d) {
  return product == IntProduct::int8 ? panels_of<int8_t>(d) : panels_of<int16_t>(d);
}

// The sum of squares, in four chains, and the largest size of an entry; the row is read once.
struct RowSize {
  float square, most;
};

MS_INLINE RowSize size_of(const float* row, int64_t d) {
  vf square[4] = {}, most = {};
  const auto add = [&](int64_t at, vf& chain) {
    const vf v = load(row + at), size = (vf)((vu)v & 0x7fffffffu);
    chain += v * v;
    most = size > most ? size : most;
  };
  int64_t c = 0;
  for (; c + 4 * MS_WIDTH <= d; c += 4 * MS_WIDTH)
    for (int j = 0; j < 4; ++j) add(c + j * MS_WIDTH, square[j]);
  for (; c + MS_WIDTH <= d; c += MS_WIDTH) add(c, square[0]);
  float rest = 0, highest = largest(most);
  for (; c < d; ++c) rest += row[c] * row[c], highest = std::max(highest, std::fabs(row[c]));
  return {sum((square[0] + square[1]) + (square[2] + square[3])) + rest, highest};
}

enum class Rounding { nearest, dithered_token, dithered_feature };

// One row of d floats into whole vectors of numbers. `bias`: added to every number (tokens in 8 bits).
template <class T, Rounding rounding>
static void pack_row(const float* row, int64_t d, int32_t bias, const Dither& dither, uint32_t* out,
                     const QuantizedRows& to, int64_t r) {
  constexpr bool kDithered = rounding != Rounding::nearest;
  const RowSize size = size_of(row, d);
  const float norm = __builtin_sqrtf(size.square), levels = kDithered ? kDitheredMost : 127;
  const float unit = size.square < kLeastSquare ? 0.0f : sizeof(T) == 1 ? size.most / levels : norm / kInt16Norm;
  const float inverse = unit > 0 ? 1 / unit : 0.0f;
  vf chain[4] = {};  // squares of the rounding errors; of dithered rows the sums with the other side's draws
  // Unsigned: what rounding makes of NaN or 3e38 wraps around, and such rows go by fp32.
  vu total = {};
  const auto put = [&](vf v, int64_t at, vf& joined) {
    vf scaled = v * splat(inverse), own = {};
    if constexpr (kDithered) own = load(dither.own.data() + at), scaled += own;
    // Adding 1.5·2²³ leaves the nearest whole number in the lower bits of a float.
    const vu number = (vu)(scaled + splat(12582912.0f)) - (vu)splat(12582912.0f);
    const vf whole = __builtin_convertvector((vi)number, vf);
    if constexpr (kDithered) {
      joined += (rounding == Rounding::dithered_token ? whole - own : whole) * load(dither.other.data() + at);
    } else {
      const vf error = v - whole * splat(unit);
      joined += error * error;
    }
    total += number;
    narrow(T{}, (vi)(number + uint32_t(bias)), out + at / kGroup<T>);
  };
  int64_t c = 0;
  for (; c + 4 * MS_WIDTH <= d; c += 4 * MS_WIDTH)
    for (int j = 0; j < 4; ++j) put(load(row + c + j * MS_WIDTH), c + j * MS_WIDTH, chain[j]);
  for (; c + MS_WIDTH <= d; c += MS_WIDTH) put(load(row + c), c, chain[0]);
  if (c < d) {
    float rest[MS_WIDTH] = {};
    std::copy(row + c, row + d, rest);
    put(load(rest), c, chain[0]);
  }
  const float joined = sum((chain[0] + chain[1]) + (chain[2] + chain[3]));
  to.scale[r] = unit;
  to.norm[r] = norm;
  to.off[r] = kDithered ? 0.0f : __builtin_sqrtf(joined);
  to.start[r] = sizeof(T) == 1 ? (int32_t)(-128u * sum(total)) : 0;
  if (!kDithered) return;
  to.offset[r] = joined;
  // A feature's offset is taken off where its sums start: one number less per tile. The error bound covers the rounding.
  if (rounding == Rounding::dithered_feature && std::fabs(joined) < 1e9f) to.start[r] -= int32_t(std::lrintf(joined));
}

// A row in fp32, where it is or in `wide`.
MS_INLINE const float* in_fp32(const float* row, std::vector<float>&, int64_t) { return row; }

MS_INLINE const float* in_fp32(const bf16* row, std::vector<float>& wide, int64_t d) {
  for (int64_t c = 0; c < d; ++c) wide[c] = load1(row + c);
  return wide.data();
}

// The columns of a block of as many rows, each a vector.
template <int stride = MS_WIDTH / 2>
MS_INLINE void transpose(vu (&v)[MS_WIDTH]) {
#if defined(__GNUC__) && !defined(__clang__)
  if constexpr (stride > 0) {
    vi low, high;  // lanes of two rows: 0 … of the one, MS_WIDTH … of the other
    for (int i = 0; i < MS_WIDTH; ++i)
      low[i] = i & stride ? MS_WIDTH + (i ^ stride) : i, high[i] = i & stride ? MS_WIDTH + i : i ^ stride;
#pragma GCC unroll 16
    for (int i = 0; i < MS_WIDTH; ++i)
      if (!(i & stride)) {
        const vu a = v[i], b = v[i + stride];
        v[i] = __builtin_shuffle(a, b, low);
        v[i + stride] = __builtin_shuffle(a, b, high);
      }
    transpose<stride / 2>(v);
  }
#else
  for (int i = 0; i < MS_WIDTH; ++i)
    for (int j = 0; j < i; ++j) {
      const uint32_t a = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = a;
    }
#endif
}

// `width` rows of `count` groups each, `pitch` apart, as [group][row]. `rows` has whole vectors of rows and of groups.
static void interleave(const uint32_t* rows, int64_t pitch, int64_t width, int64_t count, uint32_t* panel) {
  for (int64_t i = 0; i < width; i += MS_WIDTH) {
    const int64_t here = std::min<int64_t>(MS_WIDTH, width - i);
    for (int64_t g = 0; g < count; g += MS_WIDTH) {
      vu v[MS_WIDTH];
#pragma GCC unroll 16
      for (int j = 0; j < MS_WIDTH; ++j) __builtin_memcpy(&v[j], rows + (i + j) * pitch + g, sizeof v[j]);
      transpose(v);
      for (int64_t j = 0; j < std::min<int64_t>(MS_WIDTH, count - g); ++j) {
        uint32_t* to = panel + (g + j) * width + i;
        // A panel narrower than a vector: what is written beyond a group, the next one is written over.
        const bool whole = here == MS_WIDTH || (i == 0 && (count - g - j - 1) * width >= MS_WIDTH - here);
        if (whole) __builtin_memcpy(to, &v[j], sizeof v[j]);
        else std::copy_n(reinterpret_cast<const uint32_t*>(&v[j]), here, to);
      }
    }
  }
}

// The same with kTogether groups of a row side by side, the rows of tiles.
template <class T>
static void interleave_lines(const uint32_t* rows, int64_t pitch, int64_t width, int64_t count, uint32_t* panel) {
  for (int64_t g = 0; g < count; g += kTogether<T>)
    for (int64_t i = 0; i < width; ++i, panel += kTogether<T>) std::copy_n(rows + i * pitch + g, kTogether<T>, panel);
}

// The numbers of two columns of a panel in int16 as each lane of a product has them, those of one feature, from each column
// of its own, a vector of the numbers of all features; and the other way round.
MS_INLINE void both_columns(vi a, vi b, vi& first, vi& second) {
#if MS_WIDTH == 16 && defined(MS_X86)
  first = (vi)_mm512_unpacklo_epi16((__m512i)a, (__m512i)b), second = (vi)_mm512_unpackhi_epi16((__m512i)a, (__m512i)b);
#elif MS_WIDTH == 8 && defined(MS_X86)
  first = (vi)_mm256_unpacklo_epi16((__m256i)a, (__m256i)b), second = (vi)_mm256_unpackhi_epi16((__m256i)a, (__m256i)b);
#elif defined(MS_X86)
  first = (vi)_mm_unpacklo_epi16((__m128i)a, (__m128i)b), second = (vi)_mm_unpackhi_epi16((__m128i)a, (__m128i)b);
#else
  first = (vi)(((vu)a & 0xffffu) | (vu)b << 16), second = (vi)((vu)a >> 16 | ((vu)b & 0xffff0000u));
#endif
}

MS_INLINE void each_column(vi first, vi second, vi& a, vi& b) {
  const auto joined = [](vi one, vi other) MS_METHOD {  // numbers of 16 bits each
#if MS_WIDTH == 16 && defined(MS_X86)
    return (vi)_mm512_packs_epi32((__m512i)one, (__m512i)other);
#elif MS_WIDTH == 8 && defined(MS_X86)
    return (vi)_mm256_packs_epi32((__m256i)one, (__m256i)other);
#elif defined(MS_X86)
    return (vi)_mm_packs_epi32((__m128i)one, (__m128i)other);
#else
    return (vi)(((vu)one & 0xffffu) | (vu)other << 16);
#endif
  };
  a = joined((vi)((vu)first << 16) >> 16, (vi)((vu)second << 16) >> 16);
  b = joined(first >> 16, second >> 16);
}

// A panel of features from pairs of columns into columns, for tokens in lists (lists-inl.h).
static void into_columns(int64_t pairs, uint32_t* panel) {
  for (uint32_t* end = panel + pairs * kFeaturePanel; panel < end; panel += kFeaturePanel) {
    vi of[2], columns[2];
    __builtin_memcpy(of, panel, sizeof of);
    each_column(of[0], of[1], columns[0], columns[1]);
    __builtin_memcpy(panel, columns, sizeof columns);
  }
}

// The numbers of a place beyond the last row.
MS_INLINE void no_row(const QuantizedRows& to, int64_t r) {
  to.scale[r] = to.norm[r] = to.off[r] = 0;
  to.start[r] = 0;
  if (to.offset) to.offset[r] = 0;
  if (to.along) to.along[r] = 0;
  if (to.count) to.count[r] = 0;
}

// Packs rows into panels; zeros beyond the last row up to a whole panel.
template <class T, Rounding rounding>
static void pack_all(const Weights& w, int64_t rows, bool tokens, const QuantizedRows& to, int threads) {
  const int64_t width = tokens ? kTokenPanel<T> : kFeaturePanel;
  const int32_t bias = tokens && sizeof(T) == 1 ? 128 : 0;
  const auto arrange = tokens && kTiles<T> ? interleave_lines<T> : interleave;
  const int64_t count = groups<T>(w.d), pitch = (count + MS_WIDTH - 1) / MS_WIDTH * MS_WIDTH;
  const std::vector<float> signs = sizeof(T) == 1 ? rotation_signs(w.d) : std::vector<float>();
  const Dither dither = rounding == Rounding::nearest ? Dither() : Dither(w.d, rounding == Rounding::dithered_token);
  parallel_for((rows + width - 1) / width, 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> wide(w.d);
    std::vector<uint32_t> packed((width + MS_WIDTH - 1) / MS_WIDTH * MS_WIDTH * pitch);
    dispatch_dtype(w, [&](const auto* from) {
      const auto source = [&](int64_t r) { return from + (to.order ? to.order[r] : r) * w.d; };
      const auto ready = [&](int64_t r) {
        if (r + 2 < std::min(rows, end * width)) prefetch_row(source(r + 2), w.d);
        if (sizeof(T) == 2) return in_fp32(source(r), wide, w.d);
        rotate(source(r), signs, wide.data());
        return static_cast<const float*>(wide.data());
      };
      for (int64_t p = begin; p < end; ++p) {
        for (int64_t i = 0; i < width; ++i) {
          const int64_t r = p * width + i;
          uint32_t* row = packed.data() + i * pitch;
          if (r < rows) {
            const float* source = ready(r);
            pack_row<T, rounding>(source, w.d, bias, dither, row, to, r);
            if (to.along) to.along[r] = float(dot(to.usual, source, w.d));
          } else {
            std::fill(row, row + pitch, 0);
            no_row(to, r);
          }
        }
        uint32_t* panel = static_cast<uint32_t*>(to.data) + p * count * width;
        arrange(packed.data(), pitch, width, count, panel);
        if (to.along) into_columns(count, panel);
      }
    });
  });
}

// What rounding to bf16 takes off: to the nearest, among equals the even one, as PyTorch rounds.
MS_INLINE vf lost_in_bf16(vf v) {
  const vu bits = (vu)v;
  return v - (vf)((bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u);
}

// ‖row − row in bf16‖².
MS_INLINE float square_lost_in_bf16(const float* row, int64_t d) {
  vf lost = {};
  int64_t c = 0;
  const auto add = [&](vf v) {
    v = lost_in_bf16(v);
    lost += v * v;
  };
  for (; c + MS_WIDTH <= d; c += MS_WIDTH) add(load(row + c));
  float rest[MS_WIDTH] = {};
  std::copy(row + c, row + d, rest);
  add(load(rest));
  return sum(lost);
}

// The larger, and what is not a number before all others.
MS_INLINE float worse(float a, float b) { return a != a || a > b ? a : b; }

// The largest norm of a row, and of what rounding it to bf16 takes off; the first is not finite if any entry is not.
static LargestNorms largest_norms(const Weights& w, int64_t rows, int threads) {
  constexpr int64_t kGrain = 256;
  std::vector<LargestNorms> parts((rows + kGrain - 1) / kGrain + 1, LargestNorms{0, 0});
  parallel_for(rows, kGrain, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> wide(w.d);
    LargestNorms most = {0, 0};
    dispatch_dtype(w, [&](const auto* from) {
      for (int64_t r = begin; r < end; ++r) {
        const float* row = in_fp32(from + r * w.d, wide, w.d);
        most.norm = worse(float(dot(row, row, w.d)), most.norm);
        most.off = worse(square_lost_in_bf16(row, w.d), most.off);
      }
    });
    parts[begin / kGrain] = most;
  });
  LargestNorms most = {0, 0};
  for (const LargestNorms& part : parts) most = {worse(part.norm, most.norm), worse(part.off, most.off)};
  return {__builtin_sqrtf(most.norm), __builtin_sqrtf(most.off)};
}

}  // namespace ms::MS_ISA
MS_TARGET_END
