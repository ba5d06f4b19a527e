// Gradient row → projection → Adam → norm, without leaving the cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../core/adam.h"
#include "../core/parallel.h"
#include "kernels.h"
#include "mixed-inl.h"
#include "row_grad-inl.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

MS_INLINE void keep(float* p, float value, uint32_t) { *p = value; }

// Up with the probability of the part cut off, so that the mean is right: to the nearest, v would stand still, for it
// moves by a thousandth of itself and bf16 has steps of a hundredth.
MS_INLINE void keep(bf16* p, float value, uint32_t noise) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  p->bits = uint16_t((bits + (noise & 0xffffu)) >> 16);
}

// The rows u[tokens[0 … n)] that the gradient of the next row of w sums.
struct NextSum {
  const float* u = nullptr;
  const int32_t* tokens = nullptr;
  int64_t n = 0;

  void prefetch(int64_t d, int64_t from, int64_t columns) const {
    for (int64_t j = 0; j < n; ++j) prefetch_row(u + int64_t(tokens[j]) * d + from, columns);
  }
};

// g is overwritten where it is projected. What the next row needs is prefetched in parts, as this one is updated: all at
// once it would queue up. `prefetch_state`: w, m and v too; the processor's own prefetch ends with the page, which is
// every other row.
template <class S>
MS_INLINE void adam_row(float* __restrict w, S* __restrict m, S* __restrict v, float* __restrict g, int64_t d,
                        const AdamFactors& a, bool unit, uint32_t seed, bool prefetch_state, const NextSum& next) {
  if (unit) {
    const float along = float(dot(g, w, d));
    for (int64_t i = 0; i < d; ++i) g[i] -= along * w[i];
  }
  constexpr int64_t kChunk = 64;
  for (int64_t from = 0; from < d; from += kChunk) {
    const int64_t columns = std::min(kChunk, d - from);
    if (prefetch_state) {
      prefetch_row(w + d + from, columns);
      prefetch_row(m + d + from, columns);
      prefetch_row(v + d + from, columns);
    }
    next.prefetch(d, from, columns);
#pragma omp simd
    for (int64_t i = from; i < from + columns; ++i) {
      const float before = load1(m + i);
      const float mi = before + a.add1 * (g[i] - before);
      const float vi = a.keep2 * load1(v + i) + a.add2 * g[i] * g[i];
      const uint32_t noise = mixed(seed + uint32_t(i));
      keep(m + i, mi, noise);
      keep(v + i, vi, noise >> 16);
      w[i] -= a.step_size * (mi / (__builtin_sqrtf(vi) * a.inverse_root2 + a.eps));
    }
  }
  if (unit) {
    const float norm = std::max(__builtin_sqrtf(float(dot(w, w, d))), std::numeric_limits<float>::min());
    const float by_norm = 1 / norm;  // one division per row: divisions would bound the sweep
    for (int64_t i = 0; i < d; ++i) w[i] *= by_norm;
  }
}

// Moments in 8 bits: m = ±(q/127)² · M and √v = (q/255)² · S, with M and S the row's largest |m| and √v. The squares give
// small entries codes as fine as large ones: in steps of equal size all of them would be 0.
MS_INLINE void decode8(const int8_t* mq, const uint8_t* vq, float m_scale, float v_scale, float* m, float* v,
                       int64_t d) {
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) {
    const float a = float(mq[i]), b = float(vq[i]), root = b * b / 65025.0f * v_scale;
    m[i] = a * __builtin_fabsf(a) / 16129.0f * m_scale;
    v[i] = root * root;
  }
}

// The code of a number given by its square, up with the probability that makes the mean of the square right.
MS_INLINE int32_t code8(float square, uint32_t noise, int32_t most) {
  const int32_t low = int32_t(__builtin_sqrtf(square));  // signed 32-bit numbers throughout: those have vectors
  const float whole = float(low), part = (square - whole * whole) / (2.0f * whole + 1.0f);
  const int32_t code = low + (part * 65536.0f > float(int32_t(noise)) ? 1 : 0);
  return code < most ? code : most;
}

// √v of what is not 0 stays above 0: beside an m that was rounded up, a v of 0 would move the weight by m/ε.
MS_INLINE void encode8(int8_t* mq, uint8_t* vq, float* m_scale, float* v_scale, const float* m, const float* v,
                       int64_t d, uint32_t seed) {
  float most_m = 0.0f, most_v = 0.0f;
#pragma omp simd reduction(max : most_m, most_v)
  for (int64_t i = 0; i < d; ++i) {
    const float size = __builtin_fabsf(m[i]);
    most_m = size > most_m ? size : most_m;
    most_v = v[i] > most_v ? v[i] : most_v;
  }
  *m_scale = most_m;
  *v_scale = __builtin_sqrtf(most_v);
  const float by_m = most_m > 0.0f ? most_m : 1.0f, by_v = *v_scale > 0.0f ? *v_scale : 1.0f;
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) {
    const uint32_t noise = mixed(seed + uint32_t(i));
    const int32_t q = code8(__builtin_fabsf(m[i]) / by_m * 16129.0f, noise & 0xffffu, 127);
    const int32_t r = code8(__builtin_sqrtf(v[i]) / by_v * 65025.0f, noise >> 16, 255);
    mq[i] = int8_t(m[i] < 0.0f ? -q : q);
    vq[i] = uint8_t(r == 0 && v[i] > 0.0f ? 1 : r);
  }
}

// g += own · w, with the multiples of one row.
MS_INLINE void add_own(float* __restrict g, const float* __restrict w, const float* own, int64_t blocks, int64_t d) {
  const int64_t width = d / blocks;
  for (int64_t b = 0; b < blocks; ++b, g += width, w += width) {
    const float factor = own[b];
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) g[i] += factor * w[i];
  }
}

MS_INLINE bool any(const float* g, int64_t d) {
  bool found = false;
  for (int64_t i = 0; i < d && !found; ++i) found = g[i] != 0.0f;
  return found;
}

// Rows begin:end, whose gradient `gradient(row, g)` writes to g, or says that it is 0 everywhere and leaves g alone; with
// moments in whichever form they are kept. `next_sum(row)`: what the gradient of the row after it reads.
template <class Gradient, class Next>
MS_INLINE void adam_rows(float* w, const Moments& s, int64_t begin, int64_t end, int64_t d, const AdamStep& step,
                         const Gradient& gradient, const Next& next_sum) {
  const AdamFactors a = adam_factors(step);
  std::vector<float> g(d);
  std::vector<float> m(s.dtype == Dtype::int8 ? d : 0), v(m.size());
  for (int64_t r = begin; r < end; ++r) {
    const float* own = step.own.factors ? step.own.factors + r * step.own.blocks : nullptr;
    const bool has_own = own && any(own, step.own.blocks);
    const NextSum next = next_sum(r);
    const bool has_gradient = gradient(r, g.data());
    if (!has_own && (!has_gradient || (step.lazy && !any(g.data(), d)))) {
      next.prefetch(d, 0, d);
      continue;
    }
    if (!has_gradient) std::fill(g.begin(), g.end(), 0.0f);
    if (has_own) add_own(g.data(), w + r * d, own, step.own.blocks, d);
    const uint32_t seed = mixed(uint32_t(step.step) * 0x9e3779b1u ^ mixed(uint32_t(r) + 0x7f4a7c15u));
    const bool prefetch_state = r + 1 < end && !step.lazy;
    float* row = w + r * d;
    if (s.dtype == Dtype::f32) {
      adam_row(row, static_cast<float*>(s.m) + r * d, static_cast<float*>(s.v) + r * d, g.data(), d, a, step.unit, seed,
               prefetch_state, next);
    } else if (s.dtype == Dtype::bf16) {
      adam_row(row, static_cast<bf16*>(s.m) + r * d, static_cast<bf16*>(s.v) + r * d, g.data(), d, a, step.unit, seed,
               prefetch_state, next);
    } else {
      int8_t* mq = static_cast<int8_t*>(s.m) + r * d;
      uint8_t* vq = static_cast<uint8_t*>(s.v) + r * d;
      decode8(mq, vq, s.m_scale[r], s.v_scale[r], m.data(), v.data(), d);
      adam_row(row, m.data(), v.data(), g.data(), d, a, step.unit, seed, false, next);
      encode8(mq, vq, s.m_scale + r, s.v_scale + r, m.data(), v.data(), d, seed);
    }
  }
}

static void row_adam(float* w, const Moments& s, const float* g, int64_t rows, int64_t d, const AdamStep& step,
                     int threads) {
  parallel_for(rows, 32, threads, [&](int64_t begin, int64_t end) {
    const auto gradient = [&](int64_t r, float* out) {
      std::copy(g + r * d, g + (r + 1) * d, out);
      return true;
    };
    adam_rows(w, s, begin, end, d, step, gradient, [](int64_t) { return NextSum{}; });
  });
}

static void row_grad_adam(float* w, const Moments& moments, const Csc& s, const float* coef, const float* u, int64_t d,
                          float scale, const AdamStep& step, const BiasSums& bias, int threads) {
  // Small enough that workers end together; of a million features larger, so that the sums of the pieces stay small.
  const int64_t piece = std::clamp<int64_t>(s.features / 4096, 32, kSumBlock), pieces = (s.features + piece - 1) / piece;
  std::vector<float> weighted(bias.sums ? pieces * d : 0);  // of each piece
  parallel_for(s.features, piece, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    const auto gradient = [&](int64_t f, float* out) {
      if (bias.sums) {
        const float sum = bias.sums[f] = sum_of_feature(s, f, bias.coef);
        if (sum != 0.0f) add_own(weighted.data() + f / piece * d, w + f * d, &sum, 1, d);
      }
      if (step.lazy && s.starts[f] == s.starts[f + 1]) return false;
      grad_row(s, f, coef, u, d, out, scratch);
      for (int64_t i = 0; i < d; ++i) out[i] *= scale;
      return true;
    };
    adam_rows(w, moments, begin, end, d, step, gradient, [&](int64_t f) {
      if (f + 1 >= end) return NextSum{};
      const int64_t at = s.starts[f + 1], n = s.starts[f + 2] - at;
      return NextSum{u, s.tokens + at, std::min<int64_t>(n, 8)};  // some of them: a frequent feature has hundreds
    });
  });
  if (!bias.sums) return;
  parallel_for(d, 64, threads, [&](int64_t begin, int64_t end) {
    std::vector<double> total(end - begin);
    for (int64_t p = 0; p < pieces; ++p)
      for (int64_t c = begin; c < end; ++c) total[c - begin] += weighted[p * d + c];
    std::copy(total.begin(), total.end(), bias.weighted + begin);
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
