// Decode, residual, loss and slope of each value while the token's decoder rows are in cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../core/parallel.h"
#include "kernels.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

static void decode_loss(const Code& code, const Weights& w, const float* bias, const float* x, float* loss,
                        float* residual, float* slopes, int threads) {
  const int64_t d = w.d;
  parallel_for(code.n, 16, threads, [&](int64_t begin, int64_t end) {
    dispatch_dtype(w, [&](const auto* weights) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t at = code.offsets[n], count = code.offsets[n + 1] - at;
        float* r = residual + n * d;
        weighted_rows(r, bias, code.values + at, code.indices + at, count, weights, d);
        for (int64_t c = 0; c < d; ++c) r[c] -= x[n * d + c];
        loss[n] = float(dot(r, r, d) / double(d));
        const double scale = 2.0 / double(d);
        // With each row that is read a second time, one row of the next token is prefetched.
        const int64_t next = n + 1 < end ? std::min(count, code.offsets[n + 2] - at - count) : 0;
        for (int64_t j = at; j < at + count; ++j) {
          if (j - at < next) prefetch_row(weights + int64_t(code.indices[j + count]) * d, d);
          slopes[j] = float(scale * dot(r, weights + int64_t(code.indices[j]) * d, d));
        }
      }
    });
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
