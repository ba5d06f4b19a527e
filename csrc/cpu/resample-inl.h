// Dead features take the direction of their input: decoder unit, encoder scaled, bias 0.
#pragma once

#include <cmath>
#include <cstdint>

#include "../core/parallel.h"
#include "kernels.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

static void resample(float* w_enc, float* w_dec, float* b_enc, int64_t features, int64_t d, const int64_t* chosen,
                     int64_t n_chosen, const float* inputs, const uint8_t* alive, float factor, int threads) {
  double total = 0;
  int64_t count = 0;
  for (int64_t f = 0; f < features; ++f)
    if (alive[f]) {
      total += std::sqrt(dot(w_enc + f * d, w_enc + f * d, d));
      ++count;
    }
  const float norm = factor * (count ? float(total / double(count)) : 1.0f);
  parallel_for(n_chosen, 32, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* x = inputs + i * d;
      const float length = __builtin_sqrtf(float(dot(x, x, d)));
      for (int64_t c = 0; c < d; ++c) {
        w_dec[chosen[i] * d + c] = x[c] / length;
        w_enc[chosen[i] * d + c] = x[c] / length * norm;
      }
      b_enc[chosen[i]] = 0;
    }
  });
}

}  // namespace ms::MS_ISA
MS_TARGET_END
