// Sum of the active decoder rows of each token, and its gradient in the values.
#pragma once

#include <cstdint>

#include "../core/parallel.h"
#include "kernels.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

static void sparse_decode(const Code& code, const Weights& w, const float* bias, float* out, int threads) {
  parallel_for(code.n, 4, threads, [&](int64_t begin, int64_t end) {
    dispatch_dtype(w, [&](const auto* weights) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t at = code.offsets[n];
        weighted_rows(out + n * w.d, bias, code.values + at, code.indices + at, code.offsets[n + 1] - at, weights, w.d);
      }
    });
  });
}

static void gather_dot(const Code& code, const Weights& w, const float* g, float scale, float* out, int threads) {
  constexpr int64_t kAhead = 8;  // rows
  parallel_for(code.n, 4, threads, [&](int64_t begin, int64_t end) {
    dispatch_dtype(w, [&](const auto* weights) {
      const auto row = [&](int64_t j) { return weights + int64_t(code.indices[j]) * w.d; };
      for (int64_t n = begin; n < end; ++n)
        for (int64_t j = code.offsets[n]; j < code.offsets[n + 1]; ++j) {
          if (j + kAhead < code.offsets[end]) prefetch_row(row(j + kAhead), w.d);
          out[j] = float(scale * dot(g + n * w.d, row(j), w.d));
        }
    });
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
