// Gradient row → projection → Adam → norm, in registers: the gradient never goes to memory.
#pragma once

#include "../row_grad/row_grad.cuh"

namespace ms {

MS_DEVICE float adam_entry(float w, float& m, float& v, float g, const AdamFactors& a) {
  m += a.add1 * (g - m);
  v = a.keep2 * v + a.add2 * g * g;
  return w - a.step_size * __fdividef(m, fast_sqrt(v) * a.inverse_root2 + a.eps);
}

// The factors of this step: from device memory where the step is replayed from a graph and they change between replays.
MS_DEVICE AdamFactors current(const AdamFactors& factors, const AdamFactors* live) { return live ? *live : factors; }

// A well-mixed number; the noise of a rounding is that of step, row and column, as on a CPU (csrc/cpu/row_adam-inl.h).
MS_DEVICE unsigned mixed(unsigned h) {
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

template <int N>
MS_DEVICE void keep(float* p, const Values<N>& x, unsigned, int) {
  store<N>(p, x);
}

// Rounded up with the probability of the part that is cut off, so that the mean is right.
template <int N>
MS_DEVICE void keep(bf16* p, const Values<N>& x, unsigned seed, int shift) {
  unsigned bits[N];
#pragma unroll
  for (int i = 0; i < N; ++i)
    bits[i] = (__float_as_uint(x.v[i]) + ((mixed(seed + unsigned(i)) >> shift) & 0xffffu)) >> 16;
  store_halves(p, bits);
}

// Σ w² and Σ (w − copy)² of a row, for the norms of the copy.
struct CopySums {
  float length = 0.0f, left = 0.0f;
};

template <int N>
MS_DEVICE void write_copy(const AdamRows& rows, int64_t row, int64_t c, const Values<N>& w, CopySums& sums) {
  store<N>(rows.copy.data + row * rows.copy.stride + c, w);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float left = w.v[k] - from_bits(bf16_bits(w.v[k]) << 16);
    sums.length += w.v[k] * w.v[k];
    sums.left += left * left;
  }
}

MS_DEVICE void write_norms(const AdamRows& rows, int64_t row, int lane, int lanes, CopySums sums, float* slots) {
  if (!rows.copy.data) return;
  sums.length = sum_over(sums.length, lanes, slots);
  sums.left = sum_over(sums.left, lanes, slots);
  if (lane == 0) {
    rows.copy.norms[row] = sqrtf(sums.length) * 1.001f + 1e-14f;  // the least: product.py
    rows.copy.norms[rows.rows + row] = sqrtf(sums.left) * 1.001f + 1e-14f;
  }
}

// Multiples of the row itself for columns c … c + N − 1, which may belong to several blocks.
template <int N>
MS_DEVICE Values<N> own_factors(const AdamRows& rows, int64_t row, int64_t c) {
  const unsigned first = unsigned(c), width = rows.own_width;
  const float* next = rows.own.factors + row * rows.own.blocks + first / width;
  unsigned end = (first / width + 1) * width;
  float factor = *next;
  Values<N> factors;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (first + unsigned(k) == end) {
      factor = *++next;
      end += width;
    }
    factors.v[k] = factor;
  }
  return factors;
}

template <int N>
MS_DEVICE void add_own(Values<N>& g, const Values<N>& own, const Values<N>& w) {
#pragma unroll
  for (int k = 0; k < N; ++k) g.v[k] += own.v[k] * w.v[k];
}

MS_DEVICE bool has_own(const AdamRows& rows, int64_t row) {
  bool found = false;
  for (int64_t b = 0; b < rows.own.blocks; ++b) found = found || rows.own.factors[row * rows.own.blocks + b] != 0.0f;
  return found;
}

// One row by `lanes` threads. gradient(g, columns) gives its values; it is called again for each tile when the row does
// not fit into the threads' registers. seen(v, c, w) gets the row as it was before. kOwn: multiples of the row are added
// to its gradient; a template, so that the kernels without them keep their registers.
template <int N, int V, class T, bool kOwn, class Gradient, class Seen>
MS_DEVICE void adam_row(const AdamRows& rows, int64_t row, int64_t d, int lane, int lanes, const AdamFactors& a,
                        Gradient gradient, Seen seen) {
  float* slots = shared_memory<float>();
  T *const m = static_cast<T*>(rows.moments.m) + row * d, *const second = static_cast<T*>(rows.moments.v) + row * d;
  const int64_t tile = int64_t(lanes) * N * V, base = row * d;
  const bool whole = d <= tile, twice = rows.unit || rows.lazy;
  const unsigned seed = mixed(a.step * 0x9e3779b1u ^ mixed(unsigned(row) + 0x7f4a7c15u));
  Values<N> g[V], w[V];
  float along = 0.0f, some = 0.0f;
  if (twice) {
    for (Columns columns{0, lane, lanes}; columns.first < d; columns.first += tile) {
      gradient(g, columns);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int64_t c = columns.template at<N>(v);
        w[v] = c < d ? load<N>(rows.w + base + c) : zeros<N>();
        if (c < d) seen(v, c, w[v]);
#pragma unroll
        for (int k = 0; k < N; ++k) some += g[v].v[k] != 0.0f ? 1.0f : 0.0f;
        if constexpr (kOwn) {
          const Values<N> own = c < d ? own_factors<N>(rows, row, c) : zeros<N>();
#pragma unroll
          for (int k = 0; k < N; ++k) some += own.v[k] != 0.0f ? 1.0f : 0.0f;
          add_own<N>(g[v], own, w[v]);
        }
#pragma unroll
        for (int k = 0; k < N; ++k) along += g[v].v[k] * w[v].v[k];
      }
    }
    if (rows.lazy && sum_over(some, lanes, slots) == 0.0f) return;
    along = rows.unit ? sum_over(along, lanes, slots) : 0.0f;
  }
  float squares = 0.0f;
  CopySums sums;
  for (Columns columns{0, lane, lanes}; columns.first < d; columns.first += tile) {
    const bool have = twice && whole;
    if (!have) gradient(g, columns);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = columns.template at<N>(v);
      if (c < d) {
        if (!have) w[v] = load<N>(rows.w + base + c);
        if (!twice) seen(v, c, w[v]);
        if constexpr (kOwn)
          if (!have) add_own<N>(g[v], own_factors<N>(rows, row, c), w[v]);
        Values<N> m1 = load<N>(m + c), m2 = load<N>(second + c);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          w[v].v[k] = adam_entry(w[v].v[k], m1.v[k], m2.v[k], g[v].v[k] - along * w[v].v[k], a);
          squares += w[v].v[k] * w[v].v[k];
        }
        keep<N>(m + c, m1, seed + unsigned(c), 0);
        keep<N>(second + c, m2, seed + unsigned(c), 16);
        if (!rows.unit || !whole) store<N>(rows.w + base + c, w[v]);
        if (!rows.unit && rows.copy.data) write_copy<N>(rows, row, c, w[v], sums);
      }
    }
  }
  if (!rows.unit) return write_norms(rows, row, lane, lanes, sums, slots);
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
        if (rows.copy.data) write_copy<N>(rows, row, c, w[v], sums);
      }
    }
  }
  write_norms(rows, row, lane, lanes, sums, slots);
}

// g given in memory.
template <int N, int V, class T, bool kOwn>
__global__ void __launch_bounds__(512) row_adam_kernel(AdamRows rows, const float* g, int64_t d, int lanes,
                                                       AdamFactors factors, const AdamFactors* live) {
  const int64_t row = int64_t(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  if (row >= rows.rows) return;
  adam_row<N, V, T, kOwn>(rows, row, d, int(threadIdx.x) % lanes, lanes, current(factors, live),
                          [&](Values<N>(&out)[V], const Columns& columns) {
#pragma unroll
                            for (int v = 0; v < V; ++v) {
                              const int64_t c = columns.template at<N>(v);
                              out[v] = c < d ? load<N>(g + row * d + c) : zeros<N>();
                            }
                          },
                          [](int, int64_t, const Values<N>&) {});
}

// g = scale · Σ coef · u[token], reduced here.
template <int N, int V, class T, bool kOwn>
__global__ void __launch_bounds__(512, 1) row_grad_adam_kernel(AdamRows rows, Csc code, RowSum sum, float scale,
                                                            int lanes, AdamFactors factors, const AdamFactors* live) {
  const int64_t f = int64_t(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  if (f >= code.features) return;
  if (rows.lazy && code.starts[f] == code.starts[f + 1] && !(kOwn && has_own(rows, f))) return;
  adam_row<N, V, T, kOwn>(rows, f, sum.d, int(threadIdx.x) % lanes, lanes, current(factors, live),
                          [&](Values<N>(&out)[V], const Columns& columns) {
                            reduce_row<N, V>(out, code, sum, f, columns);
#pragma unroll
                            for (int v = 0; v < V; ++v)
#pragma unroll
                              for (int k = 0; k < N; ++k) out[v].v[k] *= scale;
                          },
                          [](int, int64_t, const Values<N>&) {});
}

// The same for the encoder, which has no scale and no unit rows, with two sums of its operands. `lanes` threads take
// `together` features one after the other, so that their weighted sum of rows goes to memory once.
template <int N, int V, class T>
__global__ void __launch_bounds__(512, 1) encoder_grad_adam_kernel(AdamRows rows, Csc code, RowSum sum,
                                                                   EncoderSums sums, int lanes, AdamFactors factors,
                                                                   const AdamFactors* live) {
  const int64_t group = int64_t(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  const int64_t first = group * sums.together, left = code.features - first;
  if (left <= 0) return;
  const int lane = int(threadIdx.x) % lanes;
  const int64_t last = first + (left < sums.together ? left : sums.together);
  // Where a thread holds the most of a row, there are no registers left for its part of the weighted sum, which then
  // grows in memory; nor would they do for rows of several tiles, which are of that kind.
  constexpr bool kKept = V < 4;
  float* weighted = sums.weighted + group * sum.d;
  const AdamFactors a = current(factors, live);
  Values<N> acc[kKept ? V : 1];
#pragma unroll
  for (int v = 0; v < (kKept ? V : 1); ++v) acc[v] = zeros<N>();
  if constexpr (!kKept)
    for (int64_t c = lane * N; c < sum.d; c += lanes * N) store<N>(weighted + c, acc[0]);
#pragma unroll 1
  for (int64_t f = first; f < last; ++f) {
    const float total = bias_total(code, sum, f);
    if (lane == 0) sums.bias[f] = total;
    adam_row<N, V, T, false>(
        rows, f, sum.d, lane, lanes, a,
        [&](Values<N>(&out)[V], const Columns& columns) { reduce_row<N, V>(out, code, sum, f, columns); },
        [&](int v, int64_t c, const Values<N>& w) {
          Values<N> more = kKept ? acc[kKept ? v : 0] : load<N>(weighted + c);
#pragma unroll
          for (int k = 0; k < N; ++k) more.v[k] += total * w.v[k];
          if constexpr (kKept) acc[v] = more;
          else store<N>(weighted + c, more);
        });
  }
  if constexpr (kKept) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = Columns{0, lane, lanes}.template at<N>(v);
      if (c < sum.d) store<N>(weighted + c, acc[v]);
    }
  }
}

// Without the unit norm, entries know nothing of their row: this serves biases, whose one row may have a million.
template <int N>
__global__ void __launch_bounds__(256) adam_entries_kernel(AdamRows rows, const float* g, int64_t length,
                                                           AdamFactors factors, const AdamFactors* live) {
  const AdamFactors a = current(factors, live);
  float *const m = static_cast<float*>(rows.moments.m), *const v = static_cast<float*>(rows.moments.v);
  const int64_t step = int64_t(gridDim.x) * blockDim.x * N;
  for (int64_t c = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N; c < length; c += step) {
    const Values<N> gradient = load<N>(g + c);
    Values<N> w = load<N>(rows.w + c), m1 = load<N>(m + c), m2 = load<N>(v + c);
#pragma unroll
    for (int k = 0; k < N; ++k) w.v[k] = adam_entry(w.v[k], m1.v[k], m2.v[k], gradient.v[k], a);
    store<N>(m + c, m1);
    store<N>(v + c, m2);
    store<N>(rows.w + c, w);
  }
}

}  // namespace ms
