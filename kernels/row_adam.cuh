// Gradient row → projection → Adam → norm, in registers: the gradient never goes to memory.
#pragma once

#include "row_grad.cuh"

namespace ms {

MS_DEVICE float adam_entry(float w, float& m, float& v, float g, const AdamFactors& a) {
  m += a.add1 * (g - m);
  v = a.keep2 * v + a.add2 * g * g;
  return w - a.step_size * __fdividef(m, fast_sqrt(v) * a.inverse_root2 + a.eps);
}

// The factors of this step: from device memory where the step is replayed from a graph and they change between replays.
MS_DEVICE AdamFactors current(const AdamFactors& factors, const AdamFactors* live) { return live ? *live : factors; }

// One row by `lanes` threads. gradient(g, columns) gives its values; it is asked again for each tile when the row does
// not fit into the threads' registers, rather than stored.
template <int N, int V, class Gradient>
MS_DEVICE void adam_row(const AdamRows& rows, int64_t row, int64_t d, int lane, int lanes, const AdamFactors& a,
                        Gradient gradient) {
  float* slots = shared_memory<float>();
  const int64_t tile = int64_t(lanes) * N * V, base = row * d;
  const bool whole = d <= tile;
  Values<N> g[V], w[V];
  float along = 0.0f;
  if (rows.unit) {
    for (Columns columns{0, lane, lanes}; columns.first < d; columns.first += tile) {
      gradient(g, columns);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int64_t c = columns.template at<N>(v);
        w[v] = c < d ? load<N>(rows.w + base + c) : zeros<N>();
#pragma unroll
        for (int k = 0; k < N; ++k) along += g[v].v[k] * w[v].v[k];
      }
    }
    along = sum_over(along, lanes, slots);
  }
  float squares = 0.0f;
  for (Columns columns{0, lane, lanes}; columns.first < d; columns.first += tile) {
    const bool have = rows.unit && whole;
    if (!have) gradient(g, columns);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = columns.template at<N>(v);
      if (c < d) {
        if (!have) w[v] = load<N>(rows.w + base + c);
        Values<N> m1 = load<N>(rows.m + base + c), m2 = load<N>(rows.v + base + c);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          w[v].v[k] = adam_entry(w[v].v[k], m1.v[k], m2.v[k], g[v].v[k] - along * w[v].v[k], a);
          squares += w[v].v[k] * w[v].v[k];
        }
        store<N>(rows.m + base + c, m1);
        store<N>(rows.v + base + c, m2);
        if (!have) store<N>(rows.w + base + c, w[v]);
        if (!rows.unit && rows.copy) store<N>(rows.copy + base + c, w[v]);
      }
    }
  }
  if (!rows.unit) return;
  const float inverse = inverse_root(sum_over(squares, lanes, slots));
  for (Columns columns{0, lane, lanes}; columns.first < d; columns.first += tile) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = columns.template at<N>(v);
      if (c < d) {
        if (!whole) w[v] = load<N>(rows.w + base + c);  // what this thread wrote above
#pragma unroll
        for (int k = 0; k < N; ++k) w[v].v[k] *= inverse;
        store<N>(rows.w + base + c, w[v]);
        if (rows.copy) store<N>(rows.copy + base + c, w[v]);
      }
    }
  }
}

// g given in memory.
template <int N, int V>
__global__ void __launch_bounds__(512) row_adam_kernel(AdamRows rows, const float* g, int64_t n, int64_t d, int lanes,
                                                       AdamFactors factors, const AdamFactors* live) {
  const int64_t row = int64_t(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  if (row >= n) return;
  adam_row<N, V>(rows, row, d, int(threadIdx.x) % lanes, lanes, current(factors, live),
                 [&](Values<N>(&out)[V], const Columns& columns) {
#pragma unroll
                   for (int v = 0; v < V; ++v) {
                     const int64_t c = columns.template at<N>(v);
                     out[v] = c < d ? load<N>(g + row * d + c) : zeros<N>();
                   }
                 });
}

// g = scale · Σ coef · u[token], reduced here.
template <int N, int V>
__global__ void __launch_bounds__(512, 1) row_grad_adam_kernel(AdamRows rows, FeatureEntries code, RowSum sum, float scale,
                                                            int lanes, AdamFactors factors, const AdamFactors* live) {
  const int64_t f = int64_t(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  if (f >= code.features) return;
  adam_row<N, V>(rows, f, sum.d, int(threadIdx.x) % lanes, lanes, current(factors, live),
                 [&](Values<N>(&out)[V], const Columns& columns) {
                   reduce_row<N, V>(out, code, sum, f, columns);
#pragma unroll
                   for (int v = 0; v < V; ++v)
#pragma unroll
                     for (int k = 0; k < N; ++k) out[v].v[k] *= scale;
                 });
}

// Without the unit norm, entries know nothing of their row: this serves biases, whose one row may have a million.
template <int N>
__global__ void __launch_bounds__(256) adam_entries_kernel(AdamRows rows, const float* g, int64_t length,
                                                           AdamFactors factors, const AdamFactors* live) {
  const AdamFactors a = current(factors, live);
  const int64_t step = int64_t(gridDim.x) * blockDim.x * N;
  for (int64_t c = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N; c < length; c += step) {
    const Values<N> gradient = load<N>(g + c);
    Values<N> w = load<N>(rows.w + c), m1 = load<N>(rows.m + c), m2 = load<N>(rows.v + c);
#pragma unroll
    for (int k = 0; k < N; ++k) w.v[k] = adam_entry(w.v[k], m1.v[k], m2.v[k], gradient.v[k], a);
    store<N>(rows.m + c, m1);
    store<N>(rows.v + c, m2);
    store<N>(rows.w + c, w);
    if (rows.copy) store<N>(rows.copy + c, w);
  }
}

}  // namespace ms
