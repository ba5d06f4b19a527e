// Vectors of MS_WIDTH floats on the compiler's vector types; included once per instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

typedef float vf __attribute__((vector_size(MS_WIDTH * 4)));
typedef int32_t vi __attribute__((vector_size(MS_WIDTH * 4)));
typedef uint32_t vu __attribute__((vector_size(MS_WIDTH * 4)));
typedef uint16_t vh __attribute__((vector_size(MS_WIDTH * 2)));

MS_INLINE vf load(const float* p) {
  vf r;
  __builtin_memcpy(&r, p, sizeof r);
  return r;
}

// A bf16 is the upper half of the float.
MS_INLINE vf load(const bf16* p) {
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  const vu wide = __builtin_convertvector(h, vu) << 16;
  return (vf)wide;
}

MS_INLINE float load1(const float* p) { return *p; }

MS_INLINE float load1(const bf16* p) {
  const uint32_t wide = uint32_t(p->bits) << 16;
  float r;
  __builtin_memcpy(&r, &wide, sizeof r);
  return r;
}

MS_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }

MS_INLINE vf splat(float s) { return vf{} + s; }

// All lanes joined in pairs, lane i with lane i + half: one chain of additions would bound the time.
template <int half, class V, class Join>
MS_INLINE auto in_pairs(V v, const Join& join) {
  if constexpr (half == 0) {
    return v[0];
  } else {
#if defined(__GNUC__) && !defined(__clang__)
    vi other;
    for (int i = 0; i < MS_WIDTH; ++i) other[i] = i ^ half;
    v = join(v, __builtin_shuffle(v, other));
#else
    for (int i = 0; i < half; ++i) v[i] = join(v[i], v[i + half]);
#endif
    return in_pairs<half / 2>(v, join);
  }
}

MS_INLINE float sum(vf v) {
  return in_pairs<MS_WIDTH / 2>(v, [](auto a, auto b) { return a + b; });
}

MS_INLINE uint32_t sum(vu v) {
  return in_pairs<MS_WIDTH / 2>(v, [](auto a, auto b) { return a + b; });
}

// No lane is NaN.
MS_INLINE float largest(vf v) {
  return in_pairs<MS_WIDTH / 2>(v, [](auto a, auto b) { return a > b ? a : b; });
}

// One bit a lane where !(a <= b): larger, or not a number.
MS_INLINE uint32_t mask_above(vf a, vf b) {
#if MS_WIDTH == 16 && defined(MS_X86)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
#elif MS_WIDTH == 8 && defined(MS_X86)
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ)));
#elif defined(MS_X86)
  return uint32_t(_mm_movemask_ps(_mm_cmpnle_ps((__m128)a, (__m128)b)));
#else
  uint32_t m = 0;
  for (int i = 0; i < MS_WIDTH; ++i) m |= uint32_t(!(a[i] <= b[i])) << i;
  return m;
#endif
}

constexpr uint32_t kAllLanes = (1u << MS_WIDTH) - 1;

// One bit a lane where a >= b.
MS_INLINE uint32_t mask_at_least(vf a, vf b) {
#if MS_WIDTH == 16 && defined(MS_X86)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#elif MS_WIDTH == 8 && defined(MS_X86)
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ)));
#elif defined(MS_X86)
  return uint32_t(_mm_movemask_ps(_mm_cmpge_ps((__m128)a, (__m128)b)));
#else
  uint32_t m = 0;
  for (int i = 0; i < MS_WIDTH; ++i) m |= uint32_t(a[i] >= b[i]) << i;
  return m;
#endif
}

// A sum of vectors and what rounding took off it.
struct Exactly {
  vf sum, lost;
};

MS_INLINE void add_to(Exactly& s, vf v) {
  const vf total = s.sum + v, joined = total - s.sum;
  s.lost += (s.sum - (total - joined)) + (v - joined);
  s.sum = total;
}

// Of all lanes, in pairs.
MS_INLINE double sum(const Exactly& s) {
  const vf lost = s.lost == s.lost ? s.lost : vf{};  // of an infinite sum it is not a number
  double lane[MS_WIDTH];
  for (int i = 0; i < MS_WIDTH; ++i) lane[i] = double(s.sum[i]) + double(lost[i]);
  for (int half = MS_WIDTH / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

// out[r] = Σ a · b[r], for R rows of d columns; a is read once. Each is to the last bit what it would be alone.
//
// At most four products follow each other in a lane before their sum joins the total, which loses nothing: in one chain
// rounding would grow with the length of the row, most in rows of one sign, and in rows that are constant every lane
// would err alike. The loads bound the time, not the additions.
template <int R, class T>
MS_INLINE void dots(const float* a, const T* const (&b)[R], int64_t d, double (&out)[R]) {
  constexpr int64_t kStep = 4 * MS_WIDTH, kBlock = 4 * kStep;
  Exactly total[R] = {};
  const auto block = [&](int64_t first, int64_t end) {
    vf s[R][4] = {};
    for (int64_t i = first; i < end; i += kStep)
      for (int j = 0; j < 4; ++j) {
        const vf v = load(a + i + j * MS_WIDTH);
        for (int r = 0; r < R; ++r) s[r][j] += v * load(b[r] + i + j * MS_WIDTH);
      }
    for (int r = 0; r < R; ++r) add_to(total[r], (s[r][0] + s[r][1]) + (s[r][2] + s[r][3]));
  };
  int64_t i = 0;
  for (; i + kBlock <= d; i += kBlock) block(i, i + kBlock);
  if (const int64_t end = d - d % kStep; i < end) block(i, end), i = end;
  for (int r = 0; r < R; ++r) {
    vf rest = {};
    int64_t c = i;
    for (; c + MS_WIDTH <= d; c += MS_WIDTH) rest += load(a + c) * load(b[r] + c);
    add_to(total[r], rest);
    double last = 0;
    for (; c < d; ++c) last += double(a[c]) * double(load1(b[r] + c));
    out[r] = sum(total[r]) + last;
  }
}

template <class T>
MS_INLINE double dot(const float* a, const T* b, int64_t d) {
  double out[1];
  dots<1, T>(a, {b}, d, out);
  return out[0];
}

constexpr int64_t kSumChain = 8;  // rows added one after the other before their sum joins the total

// out[c] = start[c] + Σ_j coef[j] · w[index[j]][c] for V vectors of columns, kept in registers over the sum.
template <int V, class T>
MS_INLINE void weighted_columns(float* out, const float* start, const float* coef, const int32_t* index, int64_t n,
                                const T* w, int64_t d) {
  vf total[V];
  for (int i = 0; i < V; ++i) total[i] = start ? load(start + i * MS_WIDTH) : vf{};
  for (int64_t j = 0; j < n;) {
    vf acc[V] = {};
    for (const int64_t end = std::min(n, j + kSumChain); j < end; ++j) {
      const T* row = w + int64_t(index[j]) * d;
      const vf c = splat(coef[j]);
      for (int i = 0; i < V; ++i) acc[i] += c * load(row + i * MS_WIDTH);
    }
    for (int i = 0; i < V; ++i) total[i] += acc[i];
  }
  for (int i = 0; i < V; ++i) store(out + i * MS_WIDTH, total[i]);
}

// out = start + Σ_j coef[j] · w[index[j]], rows of d columns; start null means 0.
template <class T>
MS_INLINE void weighted_rows(float* out, const float* start, const float* coef, const int32_t* index, int64_t n,
                             const T* w, int64_t d) {
  constexpr int V = 8;
  int64_t c = 0;
  for (; c + V * MS_WIDTH <= d; c += V * MS_WIDTH)
    weighted_columns<V>(out + c, start ? start + c : nullptr, coef, index, n, w + c, d);
  for (; c + MS_WIDTH <= d; c += MS_WIDTH)
    weighted_columns<1>(out + c, start ? start + c : nullptr, coef, index, n, w + c, d);
  for (; c < d; ++c) {
    double s = start ? start[c] : 0.0f;
    for (int64_t j = 0; j < n; ++j) s += double(coef[j]) * double(load1(w + int64_t(index[j]) * d + c));
    out[c] = float(s);
  }
}

// Calls f with the weights as a pointer of their own type.
template <class F>
MS_INLINE void dispatch_dtype(const Weights& w, const F& f) {
  if (w.dtype == Dtype::bf16)
    f(static_cast<const bf16*>(w.data));
  else
    f(static_cast<const float*>(w.data));
}

// A line of a row, into the second-level cache: a core waits for more lines there than for the first level, which bounds
// how fast rows in random order come.
MS_INLINE void prefetch_line(const void* line) { __builtin_prefetch(line, 0, 2); }

// All lines of a row of d elements.
template <class T>
MS_INLINE void prefetch_row(const T* row, int64_t d) {
  for (int64_t c = 0; c < d; c += int64_t(64 / sizeof(T))) prefetch_line(row + c);
}

}  // namespace ms::MS_ISA
MS_TARGET_END
