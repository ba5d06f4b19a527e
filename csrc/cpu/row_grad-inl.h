// Σ coef · u[token] over the tokens of a feature. One worker per row, tokens in order: the same bits every run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../core/parallel.h"
#include "kernels.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

constexpr int64_t kSumBlock = 256;  // rows summed in a chain before their sum joins: rounding grows with √, not n

MS_INLINE void grad_row(const Csc& s, int64_t f, const float* coef, const float* u, int64_t d, float* out,
                        std::vector<float>& scratch) {
  const int64_t begin = s.starts[f], end = s.starts[f + 1];
  scratch.resize(kSumBlock + d);
  float* c = scratch.data();
  float* part = c + kSumBlock;
  for (int64_t at = begin; at == begin || at < end; at += kSumBlock) {
    const int64_t n = std::min(kSumBlock, end - at);
    for (int64_t i = 0; i < n; ++i) c[i] = coef[s.entries[at + i]];
    weighted_rows(at == begin ? out : part, nullptr, c, s.tokens + at, n, u, d);
    if (at != begin)
      for (int64_t i = 0; i < d; ++i) out[i] += part[i];
  }
}

static void row_grad(const Csc& s, const float* coef, const float* u, int64_t d, float* out, int threads) {
  parallel_for(s.features, 32, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t f = begin; f < end; ++f) grad_row(s, f, coef, u, d, out + f * d, scratch);
  });
}

MS_INLINE float sum_of_feature(const Csc& s, int64_t f, const float* coef) {
  double total = 0;
  for (int64_t i = s.starts[f]; i < s.starts[f + 1]; ++i) total += coef[s.entries[i]];
  return float(total);
}

static void feature_sum(const Csc& s, const float* coef, float* out, int threads) {
  parallel_for(s.features, 256, threads, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) out[f] = sum_of_feature(s, f, coef);
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
