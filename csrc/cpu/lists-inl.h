// Tokens as lists, for the encoder's product where most columns of most tokens hold the value that the column usually has:
// 0 after a ReLU, the same for every token when a decoder's bias has been taken off since.
//
// With o the usual values, x·w = (x − o)·w + o·w. The first part is a product in int16 of the columns that differ, the
// second one number per feature. One instruction multiplies and adds two columns in the 32 bits of a lane: any two that
// differ, for a panel of features holds each column as a vector of its own, and two are interleaved when they meet.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../core/parallel.h"
#include "int_product-inl.h"
#include "kernels.h"
#include "quantize-inl.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

// A number of such a product: as int16 in everything that goes by its size.
struct Listed {
  int16_t number;
};

// The columns of a panel of tokens that differ, in pairs, one token's after another's: the lowest 16 bits and the next are
// the columns, the upper 32 their two numbers. The last of an odd number of columns stands with a zero.
struct Lists {
  const uint64_t* pairs;
  const int32_t* count;  // of each token
};

// sum + the products of a list with its columns of a panel of features.
MS_INLINE void multiply_list(const uint64_t* pairs, int64_t count, const char* w, vi sum0, vi sum1, vi (&out)[2]) {
  vi sum2 = {}, sum3 = {};  // two chains for each vector, or the time of an instruction would bound them
  const auto add = [&](uint64_t pair, int32_t numbers, vi& to0, vi& to1) MS_METHOD {
    vi a, b, first, second;
    __builtin_memcpy(&a, w + (pair & 0xffff) * sizeof a, sizeof a);
    __builtin_memcpy(&b, w + (pair >> 16 & 0xffff) * sizeof b, sizeof b);
    both_columns(a, b, first, second);
    to0 = add_products(int16_t{}, to0, vi{} + numbers, first);
    to1 = add_products(int16_t{}, to1, vi{} + numbers, second);
  };
  const auto by_load = [&](const uint64_t* pair, vi& to0, vi& to1) MS_METHOD {
    int32_t numbers;
    __builtin_memcpy(&numbers, reinterpret_cast<const char*>(pair) + sizeof numbers, sizeof numbers);
    add(*pair, numbers, to0, to1);
  };
#if MS_WIDTH == 16
  // Loads and instructions on vectors both bound the time. So every other pair's numbers go into a vector not by a load but
  // from the register that its columns are in; narrower vectors would take two instructions.
  const auto by_turns = [&](const uint64_t* at, vi& to0, vi& to1) MS_METHOD {
    uint64_t pair = *at;
#if defined(__GNUC__)
    asm("" : "+r"(pair));
#endif
    add(pair, int32_t(pair >> 32), to0, to1);
  };
#else
  const auto& by_turns = by_load;
#endif
  int64_t i = 0;
  for (; i + 2 <= count; i += 2) by_load(pairs + i, sum0, sum1), by_turns(pairs + i + 1, sum2, sum3);
  if (i < count) by_load(pairs + i, sum0, sum1);
  out[0] = wrapping(sum0, sum2);
  out[1] = wrapping(sum1, sum3);
}

// As int_gemm_registers; a share of the lines is asked for before each token.
static __attribute__((noinline)) void multiply_lists(const Lists& x, const uint32_t* w, int64_t n, const int32_t* start,
                                                     const Prefetch& prefetch, vi (&out)[kTokenPanel<Listed>][2]) {
  constexpr int64_t kTokens = kTokenPanel<Listed>, kLine = 64;
  const auto share = [](int64_t bytes) { return (bytes / kTokens + kLine) / kLine * kLine; };
  const int64_t row_bytes = n * prefetch.step / Prefetch::kRows, panel_bytes = n * prefetch.panel_step;
  const int64_t row_share = share(row_bytes), panel_share = share(panel_bytes);
  vi start0, start1;
  __builtin_memcpy(&start0, start, sizeof start0);
  __builtin_memcpy(&start1, start + MS_WIDTH, sizeof start1);
  const uint64_t* pairs = x.pairs;
  int64_t at = 0, panel = 0;
  for (int64_t i = 0; i < kTokens; ++i) {
    for (const int64_t end = std::min(at + row_share, row_bytes); at < end; at += kLine)
      for (const char* row : prefetch.row) prefetch_line(row + at);
    for (const int64_t end = std::min(panel + panel_share, panel_bytes); panel < end; panel += kLine)
      prefetch_line(prefetch.panel + panel);
    multiply_list(pairs, x.count[i], reinterpret_cast<const char*>(w), start0, start1, out[i]);
    pairs += x.count[i];
  }
}

template <class Meanwhile>
MS_INLINE void int_gemm_tile(Listed, const Lists& x, const uint32_t* w, int64_t n, const int32_t* start,
                             const Prefetch& prefetch, vi (&out)[kTokenPanel<Listed>][2], const Meanwhile&) {
  multiply_lists(x, w, n, start, prefetch, out);
}

// out = row − usual.
template <class T>
MS_INLINE void less(const T* row, const float* usual, int64_t d, float* out) {
  int64_t c = 0;
  for (; c + MS_WIDTH <= d; c += MS_WIDTH) store(out + c, load(row + c) - load(usual + c));
  for (; c < d; ++c) out[c] = load1(row + c) - usual[c];
}

// One bit for each of a vector of words that is not 0.
MS_INLINE uint32_t not_zeros(const uint32_t* words) {
  vu v;
  __builtin_memcpy(&v, words, sizeof v);
  return mask_above(v != 0 ? splat(1.0f) : splat(0.0f), splat(0.5f));
}

// Packs tokens as lists; empty ones beyond the last up to a whole panel. Columns that differ by too little for a step are
// left out: their error is in that of the row.
static void list_all(const Weights& x, int64_t rows, const QuantizedRows& to, int threads) {
  constexpr int64_t kTokens = kTokenPanel<Listed>;
  const int64_t padded = (rows + kTokens - 1) / kTokens * kTokens;
  const int64_t n = groups<Listed>(x.d), pitch = (n + MS_WIDTH - 1) / MS_WIDTH * MS_WIDTH;
  parallel_for(padded / kTokens, 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> off(x.d);
    std::vector<uint32_t> packed(pitch);  // zeros beyond the row
    std::vector<uint32_t> differ(2 * n + 2);  // a number above its column
    for (int64_t p = begin; p < end; ++p) {
      uint64_t* list = static_cast<uint64_t*>(to.data) + p * kTokens * n;
      for (int64_t r = p * kTokens; r < (p + 1) * kTokens; ++r) {
        if (r >= rows) {
          no_row(to, r);
          continue;
        }
        dispatch_dtype(x, [&](const auto* from) { less(from + r * x.d, to.usual, x.d, off.data()); });
        pack_row<int16_t, Rounding::nearest>(off.data(), x.d, 0, Dither(), packed.data(), to, r);
        int32_t columns = 0;
        for (int64_t g = 0; g < n; g += MS_WIDTH)
          for (uint32_t some = not_zeros(packed.data() + g); some; some &= some - 1) {
            const uint32_t at = uint32_t(g) + __builtin_ctz(some), two = packed[at], low = two << 16, high = two & 0xffff0000u;
            differ[columns] = low | 2 * at;
            columns += low != 0;
            differ[columns] = high | (2 * at + 1);
            columns += high != 0;
          }
        differ[columns] = 0;
        const int32_t count = (columns + 1) / 2;
        for (int32_t i = 0; i < count; ++i) {
          const uint64_t a = differ[2 * i], b = differ[2 * i + 1];
          list[i] = (a & 0xffff) | (b & 0xffff) << 16 | (a >> 16) << 32 | (b >> 16) << 48;
        }
        list += to.count[r] = count;
      }
    }
  });
}

// Into lists or panels: here, where both are known.
static void quantize(IntProduct product, const Weights& w, int64_t rows, bool tokens, const QuantizedRows& to,
                     int threads) {
  if (to.count) return list_all(w, rows, to, threads);
  const auto pack = product == IntProduct::int16 ? pack_all<int16_t, Rounding::nearest>
                    : !to.offset                 ? pack_all<int8_t, Rounding::nearest>
                    : tokens                     ? pack_all<int8_t, Rounding::dithered_token>
                                                 : pack_all<int8_t, Rounding::dithered_feature>;
  pack(w, rows, tokens, to, threads);
}

// The share of columns that differ below which lists are faster than panels, as measured (bench/LAB.md); 0: never. Rows of more
// columns than the first cache has room for in a panel of features come from the second.
static float sparse_below(int64_t d) {
#if defined(MS_TILES) || MS_WIDTH == 4
  (void)d;
  return 0;
#elif defined(MS_VNNI)
  return std::min(0.25f, 200 / float(d));
#else
  return std::min(0.3f, 400 / float(d));
#endif
}

// The value that most of a sample of rows have in each column, or 0 where a quarter or less have one; and the share of their
// entries that differ from it.
static float usual_values(const float* x, int64_t rows, int64_t d, float* usual) {
  constexpr int64_t kSample = 128;
  const int64_t every = std::max<int64_t>(1, rows / kSample), sampled = std::min(rows, kSample);
  if (!sampled || !d) return 1;
  // A value that a majority has is left over when each other value has cancelled one of it (Boyer and Moore).
  std::vector<float> ahead(d, 0.0f), has(d, 0.0f), zero(d, 0.0f);
  std::copy(x, x + d, usual);
  for (int64_t i = 0; i < sampled; ++i) {
    const float* row = x + i * every * d;
    for (int64_t c = 0; c < d; ++c) {
      const float next = ahead[c] + (row[c] == usual[c] ? 1.0f : -1.0f);
      usual[c] = next < 0 ? row[c] : usual[c];
      ahead[c] = next < 0 ? 1.0f : next;
    }
  }
  for (int64_t i = 0; i < sampled; ++i) {
    const float* row = x + i * every * d;
    for (int64_t c = 0; c < d; ++c) has[c] += row[c] == usual[c] ? 1.0f : 0.0f, zero[c] += row[c] == 0 ? 1.0f : 0.0f;
  }
  double same = 0;
  for (int64_t c = 0; c < d; ++c) {
    const bool usually = has[c] > float(sampled) / 4 && std::fabs(usual[c]) < std::numeric_limits<float>::infinity();
    if (!usually) usual[c] = 0;
    same += usually ? has[c] : zero[c];
  }
  return float(1 - same / double(sampled * d));
}

}  // namespace ms::MS_ISA
MS_TARGET_END
