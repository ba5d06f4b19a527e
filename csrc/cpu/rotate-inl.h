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

// p[0 … n) by Hadamard's matrix of n, a power of two.
static void hadamard(float* p, int64_t n) {
  int64_t stride = n / 2;
  for (; stride >= 2 * MS_WIDTH; stride /= 4)  // two steps at a time: half the loads and stores
    for (int64_t at = 0; at < n; at += 2 * stride)
      for (int64_t i = at; i < at + stride / 2; i += MS_WIDTH) {
        float *p0 = p + i, *p1 = p0 + stride / 2, *p2 = p0 + stride, *p3 = p2 + stride / 2;
        const vf a = load(p0) + load(p2), b = load(p1) + load(p3), c = load(p0) - load(p2), e = load(p1) - load(p3);
        store(p0, a + b);
        store(p1, a - b);
        store(p2, c + e);
        store(p3, c - e);
      }
  for (; stride >= MS_WIDTH; stride /= 2)
    for (int64_t at = 0; at < n; at += 2 * stride)
      for (int64_t i = at; i < at + stride; i += MS_WIDTH) {
        const vf a = load(p + i), b = load(p + i + stride);
        store(p + i, a + b);
        store(p + i + stride, a - b);
      }
  if (n < MS_WIDTH) {
    for (stride = n / 2; stride; stride /= 2)
      for (int64_t i = 0; i < n; ++i)
        if (!(i & stride)) {
          const float a = p[i], b = p[i + stride];
          p[i] = a + b;
          p[i + stride] = a - b;
        }
    return;
  }
  for (int64_t i = 0; i < n; i += MS_WIDTH) {
    vf v = load(p + i);
#if MS_WIDTH == 16
    v = butterfly<8>(v);
#endif
#if MS_WIDTH >= 8
    v = butterfly<4>(v);
#endif
    store(p + i, butterfly<1>(butterfly<2>(v)));
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
  const int64_t d = int64_t(signs.size());
  int64_t c = 0;
  for (; c + MS_WIDTH <= d; c += MS_WIDTH) store(out + c, load(row + c) * load(signs.data() + c));
  for (; c < d; ++c) out[c] = load1(row + c) * signs[c];
  for_each_block(d, [&](int64_t first, int64_t columns) { hadamard(out + first, columns); });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
