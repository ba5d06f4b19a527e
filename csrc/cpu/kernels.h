// The table of CPU kernels: one body each, compiled once per instruction set, chosen at run time.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/dtype.h"
#include "../core/entry.h"

#if defined(__x86_64__)
#define MS_X86
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define MS_HAS_AVXVNNI
#endif
#endif

namespace ms {

// How far the value of token r and feature f may be off, either way: token[r], and for products in whole numbers
// + token_off[r]·norm[f] + token_norm[r]·off[f]. Null where there is no such part.
struct Margins {
  const float *token, *token_off, *token_norm;
  const float *norm, *off;  // per feature
};

// A tile of pre-activations (without bias): `rows` tokens × `cols` features beginning at feature `first`.
struct Tile {
  const void* data;
  Dtype dtype;
  int64_t rows, cols, stride;
  int64_t first;
  const float* bias;  // of this tile's features
  Margins margins;    // products in bf16: by token; none when values are exact
};

// Survivors of the TopK selection, `capacity` slots a row, a vector of which is never taken.
struct TopkState {
  float *values, *least;  // the most and the least that each can be; no `least` where values are exact
  int32_t* indices;
  int32_t* count;
  int32_t* limit;  // of the count, at which the row is cut back
  float* bar;      // what that must exceed to survive
  uint8_t* flags;  // see below
  int64_t k, capacity;
};
constexpr uint8_t kNaN = 1;       // the row holds a NaN
constexpr uint8_t kOverflow = 2;  // too many values within the margin of the k-th: the row must be redone exactly
constexpr int64_t kWidest = 16;   // lanes of the widest vector

// Rows rounded to whole numbers: their panels, and for each row the step, the norm, the norm of what rounding took off,
// and what sums begin at.
struct PackedRows {
  void* data;
  float *scale, *norm, *off;
  int32_t* start;
};

// Tokens × features in whole numbers: value = token_scale · scale · sum + bias.
struct WholeTile {
  const void *x, *w;  // packed
  const float* token_scale;
  const float* scale;
  const int32_t* start;
  const float* bias;  // −∞ beyond the last feature up to a whole panel
  Margins margins;
  int64_t rows, cols, d;  // cols: in whole panels
};

struct Weights {
  const void* data;  // [F, D], one row a feature
  Dtype dtype;
  int64_t d;
};

struct Longest {
  float norm, off;  // of a row, and of what rounding it to bf16 takes off
};

struct Exact {  // what survivors are scored with
  const float* x;
  Weights w;
  const float* bias;
};

struct TopkAnswer {
  float* values;
  int32_t* indices;
  uint8_t* flags;  // kOverflow: to be done again
  int64_t k, capacity;
};

// Survivors of a row at which it is cut back for the first time. Two vectors may join above it, and one stays free.
inline int32_t first_limit(int64_t k, int64_t capacity) {
  const int64_t most = capacity - 3 * kWidest, early = 4 * k + 64;
  return int32_t(early < most ? early : most);
}

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
  void (*topk_rescore)(const TopkState&, int64_t rows, const float* x, const Weights&, const float* bias, int threads);
  void (*threshold_filter)(const Tile&, RowBuffers&, int threads);
  void (*threshold_rescore)(RowBuffers&, int64_t rows, const float* x, const Weights&, const float* bias, int threads);
  int64_t token_panel, feature_panel;
  bool fast_int8;  // whether products in 8 bits are faster here than in 16
  void (*whole_pack)(int bits, const Weights&, int64_t rows, bool tokens, const PackedRows&, int threads);
  void (*whole_repeat)(int bits, const uint32_t* x, const uint32_t* w, int64_t d, int64_t times, int threads);
  Longest (*longest_rows)(const Weights&, int64_t rows, int threads);
  void (*whole_topk)(int bits, const WholeTile&, const Exact&, const TopkAnswer&, int threads);
  void (*whole_threshold)(int bits, const WholeTile&, const Exact&, RowBuffers&, int threads);
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
#ifdef MS_HAS_AVXVNNI
extern const Kernels kAvxVnni;
#endif
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
