// The table of CPU kernels: one body each, compiled once per instruction set, chosen at run time.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/dtype.h"
#include "../core/entry.h"

#if defined(__x86_64__)
#define MS_X86
#endif

namespace ms {

// A tile of pre-activations (without bias): `rows` tokens × `cols` features beginning at feature `first`.
struct Tile {
  const void* data;
  Dtype dtype;
  int64_t rows, cols, stride;
  int64_t first;
  const float* bias;    // of this tile's features
  const float* margin;  // per row: how far a value may be off (products in bf16); null when values are exact
};

// Survivors of the TopK selection, `capacity` slots a row.
struct TopkState {
  Entry* slots;
  int32_t* count;
  float* bar;      // what a value must exceed to survive
  uint8_t* flags;  // see below
  int64_t k, capacity;
};
constexpr uint8_t kNaN = 1;       // the row holds a NaN
constexpr uint8_t kOverflow = 2;  // too many values within the margin of the k-th: the row must be redone exactly

// Tokens × features in whole numbers, packed by int16_pack in panels of int16_tokens and int16_features rows.
struct Int16Tile {
  const int16_t *x, *w;
  const float *x_scale, *w_scale;  // value = scale · scale · sum + bias
  const float* bias;               // of this tile's features, −∞ beyond the last up to a whole panel
  const float* margin;             // per token: how far a value may be off
  int64_t rows, cols, d, first;
};

struct Weights {
  const void* data;  // [F, D], one row a feature
  Dtype dtype;
  int64_t d;
};

struct Code {  // CSR
  const float* values;
  const int32_t* indices;
  const int64_t* offsets;
  int64_t n;
};

struct Csc {  // a code sorted by feature
  const int64_t* starts;
  const int64_t* entries;
  const int32_t* tokens;
  int64_t features;
};

struct Adam {
  double lr, beta1, beta2, eps;  // double: 1 − 0.999 loses half its digits in float
  int64_t step;
  bool unit;
  bool lazy;  // leave a row alone whose gradient is 0 everywhere
};

struct Moments {  // Adam's two; in bf16 and int8 they are rounded stochastically
  void *m, *v;
  Dtype dtype;
  float *m_scale, *v_scale;  // int8: a row's largest |m| and √v
};

using RowBuffers = std::vector<std::vector<Entry>>;

struct Kernels {
  const char* name;
  void (*topk_filter)(const Tile&, const TopkState&, int threads);
  void (*topk_finish)(const TopkState&, int64_t rows, float* values, int32_t* indices, int threads);
  void (*topk_rescore)(const TopkState&, int64_t rows, const float* margin, const float* x, const Weights&,
                       const float* bias, int threads);
  void (*threshold_filter)(const Tile&, RowBuffers&, int threads);
  void (*threshold_rescore)(RowBuffers&, int64_t rows, const float* x, const Weights&, const float* bias, int threads);
  int64_t int16_tokens, int16_features;
  void (*int16_pack)(const Weights&, int64_t rows, int64_t width, int16_t* packed, float* scale, int threads);
  float (*largest_norm)(const Weights&, int64_t rows, int threads);
  void (*int16_topk)(const Int16Tile&, const TopkState&, int threads);
  void (*int16_threshold)(const Int16Tile&, RowBuffers&, int threads);
  void (*sparse_decode)(const Code&, const Weights&, const float* bias, float* out, int threads);
  void (*gather_dot)(const Code&, const Weights&, const float* g, float scale, float* out, int threads);
  void (*decode_loss)(const Code&, const Weights&, const float* bias, const float* x, float* loss, float* residual,
                      float* slopes, int threads);
  void (*row_grad)(const Csc&, const float* coef, const float* u, int64_t d, float* out, int threads);
  void (*feature_sum)(const Csc&, const float* coef, float* out, int threads);
  void (*row_adam)(float* w, const Moments&, const float* g, int64_t rows, int64_t d, const Adam&, int threads);
  void (*row_grad_adam)(float* w, const Moments&, const Csc&, const float* coef, const float* u, int64_t d,
                        float scale, const Adam&, int threads);
  void (*resample)(float* w_enc, float* w_dec, float* b_enc, int64_t features, int64_t d, const int64_t* chosen,
                   int64_t n_chosen, const float* inputs, const uint8_t* alive, float factor, int threads);
};

extern const Kernels kBaseline;
#ifdef MS_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kAvx512Vnni;
#endif

// The kernels for this processor, or those that MONOSEM_ISA names. Throws std::invalid_argument when it names a set
// that this build or processor lacks.
const Kernels& kernels();
std::vector<const char*> available_isas();

// The same for every instruction set: no arithmetic on vectors.
void csc(const int32_t* indices, const int64_t* offsets, int64_t n, int64_t features, int64_t* starts,
         int64_t* entries, int32_t* tokens, int threads);

}  // namespace ms
