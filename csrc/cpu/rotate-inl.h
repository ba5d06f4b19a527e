// Randomised Hadamard rotation: a sign per column, then Hadamard's matrix on blocks of a power of two of columns.
//
// It preserves inner products and spreads outlier columns over their block, so that int8, whose scale is set by a row's
// largest entry, loses no more than on normal numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

// v + or − its neighbour at a distance of `stride` lanes: the smaller lane gets the sum, the larger the difference.
template <int stride>
MS_INLINE vf butterfly(vf v) {
#if defined(__GNUC__) && !defined(__clang__)
  vi other;
  vf sign;
  for (int i = 0; i < MS_WIDTH; ++i) other[i] = i ^ stride, sign[i] = i & stride ? -1.0f : 1.0f;
  return __builtin_shuffle(v, other) + v * sign;
#else
  vf r;
  for (int i = 0; i < MS_WIDTH; ++i) r[i] = v[i ^ stride] + (i & stride ? -v[i] : v[i]);
  return r;
#endif
}

// `count` vectors, a power of two, through the steps of Hadamard's matrix between them, the largest distance first.
template <int count>
MS_INLINE void steps(vf* v) {
  if constexpr (count > 1) {
#pragma GCC unroll 8
    for (int i = 0; i < count / 2; ++i) {
      const vf a = v[i], b = v[i + count / 2];
      v[i] = a + b;
      v[i + count / 2] = a - b;
    }
    steps<count / 2>(v);
    steps<count / 2>(v + count / 2);
  }
}

// Those whose largest stride is `stride`, on columns [0, n): read(column) into p, through registers once.
template <int levels, class Read>
MS_INLINE void pass(const Read& read, int64_t n, int64_t stride, float* p) {
  const int64_t gap = 2 * stride >> levels;
  for (int64_t at = 0; at < n; at += 2 * stride)
    for (int64_t i = at; i < at + gap; i += MS_WIDTH) {
      vf v[1 << levels];
#pragma GCC unroll 8
      for (int j = 0; j < 1 << levels; ++j) v[j] = read(i + j * gap);
      steps<1 << levels>(v);
#pragma GCC unroll 8
      for (int j = 0; j < 1 << levels; ++j) store(p + i + j * gap, v[j]);
    }
}

// The last steps: `levels` between vectors, and those within each.
template <int levels, class Read>
MS_INLINE void last_steps(const Read& read, int64_t n, float* p) {
  for (int64_t i = 0; i < n; i += MS_WIDTH << levels) {
    vf v[1 << levels];
#pragma GCC unroll 8
    for (int j = 0; j < 1 << levels; ++j) v[j] = read(i + j * MS_WIDTH);
    steps<1 << levels>(v);
#pragma GCC unroll 8
    for (int j = 0; j < 1 << levels; ++j) {
#if MS_WIDTH == 16
      v[j] = butterfly<8>(v[j]);
#endif
#if MS_WIDTH >= 8
      v[j] = butterfly<4>(v[j]);
#endif
      store(p + i + j * MS_WIDTH, butterfly<1>(butterfly<2>(v[j])));
    }
  }
}

// Where the largest stride is below 4·MS_WIDTH: two steps between vectors, one, or none.
template <class Read>
MS_INLINE void last_pass(const Read& read, int64_t n, int64_t stride, float* p) {
  if (stride < MS_WIDTH) last_steps<0>(read, n, p);
  else if (stride < 2 * MS_WIDTH) last_steps<1>(read, n, p);
  else last_steps<2>(read, n, p);
}

// read(column) by Hadamard's matrix of n, a power of two, into p. Three steps at a time, then what is left: each pass
// reads and writes the row once.
template <class Read>
MS_INLINE void hadamard(const Read& read, int64_t n, float* p) {
  int64_t stride = n / 2;
  if (stride < 4 * MS_WIDTH) return last_pass(read, n, stride, p);
  pass<3>(read, n, stride, p);
  const auto again = [p](int64_t c) { return load(p + c); };
  for (stride /= 8; stride >= 4 * MS_WIDTH;)
    if (stride >= 16 * MS_WIDTH) pass<3>(again, n, stride, p), stride /= 8;
    else if (stride >= 8 * MS_WIDTH) pass<2>(again, n, stride, p), stride /= 4;
    else pass<1>(again, n, stride, p), stride /= 2;
  last_pass(again, n, stride, p);
}

// The same of fewer columns than a vector has, in place.
static void hadamard_of_few(float* p, int64_t n) {
  for (int64_t stride = n / 2; stride; stride /= 2)
    for (int64_t i = 0; i < n; ++i)
      if (!(i & stride)) {
        const float a = p[i], b = p[i + stride];
        p[i] = a + b;
        p[i + stride] = a - b;
      }
}

// Calls f(first column, columns) on blocks of powers of two, the largest first.
template <class F>
MS_INLINE void for_each_block(int64_t d, const F& f) {
  for (int64_t first = 0; first < d;) {
    const int64_t columns = int64_t{1} << (63 - __builtin_clzll(uint64_t(d - first)));
    f(first, columns);
    first += columns;
  }
}

// First factor of each column: a pseudorandom sign, times the factor that keeps the length.
static std::vector<float> rotation_signs(int64_t d) {
  std::vector<float> signs(d);
  for_each_block(d, [&](int64_t first, int64_t columns) {
    const float size = 1 / __builtin_sqrtf(float(columns));
    for (int64_t c = first; c < first + columns; ++c) {
      uint32_t h = uint32_t(c) * 0x9e3779b1u;
      h = (h ^ (h >> 15)) * 0x85ebca6bu;
      signs[c] = (h >> 16) & 1 ? -size : size;
    }
  });
  return signs;
}

template <class T>
static void rotate(const T* row, const std::vector<float>& signs, float* out) {
  for_each_block(int64_t(signs.size()), [&](int64_t first, int64_t columns) {
    const T* from = row + first;
    const float* sign = signs.data() + first;
    if (columns >= MS_WIDTH)
      return hadamard([=](int64_t c) { return load(from + c) * load(sign + c); }, columns, out + first);
    for (int64_t c = 0; c < columns; ++c) out[first + c] = load1(from + c) * sign[c];
    hadamard_of_few(out + first, columns);
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
