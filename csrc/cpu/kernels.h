// The table of CPU kernels: one body each, compiled once per instruction set, chosen at run time.
#pragma once

#include <cstdint>
#include <vector>

#include "../../kernels/common/arguments.h"
#include "../core/entry.h"

#if defined(__x86_64__)
#define MS_X86
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define MS_HAS_AVXVNNI
#if defined(__linux__)  // where a process asks for them
#define MS_HAS_AMX
#endif
#endif
#endif

namespace ms {

// Error bound of the pre-activation of token r and feature f, in both directions: token[r], and for integer products
// + token_off[r]·norm[f] + token_norm[r]·off[f]. Null where there is no such term.
struct ErrorBounds {
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
  ErrorBounds bounds;    // bf16 products: one per token; none when values are exact
};

// Candidates of the TopK selection, `capacity` slots per row, of which one vector always stays free.
struct TopkState {
  float *upper, *lower;  // bounds of each candidate's value; no `lower` where values are exact
  int32_t* indices;
  int32_t* count;
  int32_t* limit;    // the count at which the row is pruned
  float* threshold;  // a candidate's upper bound exceeds it
  uint8_t* flags;  // see below
  int64_t k, capacity;
};
constexpr uint8_t kNaN = 1;       // the row holds a NaN
constexpr uint8_t kOverflow = 2;  // too many values within the error bound of the k-th: the caller redoes the row
constexpr int64_t kWidest = 16;   // lanes of the widest vector

// The integers that rows are quantised to.
enum class IntProduct { int8, int16 };

constexpr int64_t kWidestList = int64_t{1} << 16;  // columns: a list has 16 bits for one

// How quantised rows stand in panels: [panel][group of columns][row of the panel][columns of the group].
struct Panels {
  int64_t tokens, features;        // rows of a panel
  int64_t token_group, feature_group;  // columns of a group
  int64_t words;                   // 32-bit words of a row, whole groups of either side
};

// Quantised rows: their panels, and per row the scale, the norm, the norm of the rounding error, and the value at which
// its sums start. With dither (int8) there is no `off`, and `offset` is what the draws add to the sums of a row.
struct QuantizedRows {
  void* data;
  float *scale, *norm, *off;
  int32_t* start;
  float* offset;  // null: rounded to the nearest
  const int32_t* order = nullptr;  // which row is packed as number i; null: row i
  // Tokens as lists (lists-inl.h): what each column usually is, and how many pairs of columns the list of each token has. Of
  // features `along` takes the products of their rows with the usual values, and a panel holds each column as a vector.
  const float* usual = nullptr;
  int32_t* count = nullptr;
  float* along = nullptr;
};

// Tokens × features by integers: value = token_scale · scale · (sum − token_offset) + bias.
struct IntTile {
  const void *x, *w;  // packed
  const int32_t* count;  // pairs of columns in each token's list; null: panels
  const float *token_scale, *token_offset;
  const float* scale;
  const int32_t* start;
  const float* bias;        // −∞ beyond the last feature up to a whole panel
  const int32_t* features;  // which feature each column is
  ErrorBounds bounds;
  int64_t rows, cols, d;  // cols: in whole panels
};

struct LargestNorms {
  float norm, off;  // largest norm of a row, and largest norm of its rounding error in bf16
};

struct Exact {  // the fp32 operands that candidates are rescored with
  const float* x;
  Weights w;
  const float* bias;
  const float* threshold = nullptr;  // of each feature, which an active entry exceeds; none: 0
};

// How many candidates the error bounds left, and how many of those were rescored.
struct Rescored {
  int64_t candidates = 0, rescored = 0;

  Rescored& operator+=(const Rescored& other) {
    candidates += other.candidates;
    rescored += other.rescored;
    return *this;
  }
};

struct TopkAnswer {
  float* values;
  int32_t* indices;
  uint8_t* flags;  // kOverflow: to be redone
  int64_t k, capacity;
};

// The count at which a row is pruned for the first time. Two vectors may be appended above it, and one stays free.
inline int32_t first_limit(int64_t k, int64_t capacity) {
  const int64_t most = capacity - 3 * kWidest, early = 4 * k + 64;
  return int32_t(early < most ? early : most);
}

using RowBuffers = std::vector<std::vector<Entry>>;

// What the sweep over the encoder also sums: of each feature its entries of `coef`, and Σ sums[f] · w[f] with the rows as
// they were. Nothing where `sums` is null; `coef` may be, where there is no entry.
struct BiasSums {
  const float* coef = nullptr;
  float *sums = nullptr, *weighted = nullptr;  // [features], [d]
};

struct Kernels {
  const char* name;
  void (*topk_filter)(const Tile&, const TopkState&, int threads);
  void (*topk_finish)(const TopkState&, int64_t rows, float* values, int32_t* indices, int threads);
  Rescored (*topk_rescore)(const TopkState&, int64_t rows, const float* x, const Weights&, const float* bias,
                           int threads);
  void (*threshold_filter)(const Tile&, RowBuffers&, int threads);
  Rescored (*threshold_rescore)(RowBuffers&, int64_t rows, const Exact&, int threads);
  Panels (*panels)(IntProduct, int64_t d);
  bool fast_int8;  // whether int8 products are faster here than int16
  void (*quantize)(IntProduct, const Weights&, int64_t rows, bool tokens, const QuantizedRows&, int threads);
  void (*int_gemm_repeat)(IntProduct, const uint32_t* x, const uint32_t* w, int64_t d, int64_t times, int threads);
  float (*sparse_below)(int64_t d);
  float (*usual_values)(const float* x, int64_t rows, int64_t d, float* usual);
  LargestNorms (*largest_norms)(const Weights&, int64_t rows, int threads);
  Rescored (*int_topk)(IntProduct, const IntTile&, const Exact&, const TopkAnswer&, int threads);
  Rescored (*int_threshold)(IntProduct, const IntTile&, const Exact&, RowBuffers&, int threads);
  void (*sparse_decode)(const Code&, const Weights&, const float* bias, float* out, int threads);
  void (*gather_dot)(const Code&, const Weights&, const float* g, float scale, float* out, int threads);
  void (*decode_loss)(const Code&, const Weights&, const float* bias, const float* x, float* loss, float* residual,
                      float* slopes, int threads);
  void (*row_grad)(const Csc&, const float* coef, const float* u, int64_t d, float* out, int threads);
  void (*feature_sum)(const Csc&, const float* coef, float* out, int threads);
  void (*row_adam)(float* w, const Moments&, const float* g, int64_t rows, int64_t d, const AdamStep&, int threads);
  void (*row_grad_adam)(float* w, const Moments&, const Csc&, const float* coef, const float* u, int64_t d,
                        float scale, const AdamStep&, const BiasSums&, int threads);
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
#ifdef MS_HAS_AMX
extern const Kernels kAmx;
#endif
#endif

// The kernels for this processor, or those that MONOSEM_ISA names. Throws std::invalid_argument when it names a set
// that this build or processor lacks.
const Kernels& kernels();
std::vector<const char*> available_isas();

// The features of a code's entries, least and largest (0 and −1 of none), and whether its offsets ascend.
struct CodeRange {
  int32_t least, most;
  bool ascends;
};

struct CodeSums {
  double size;     // Σ |value|
  int64_t active;  // entries that are not 0
};

// The same for every instruction set: no arithmetic on vectors.
CodeRange code_range(const int32_t* indices, int64_t entries, const int64_t* offsets, int64_t n);
CodeSums code_sums(const float* values, const int32_t* indices, int64_t entries, int64_t features, uint8_t* fired);
void csc(const int32_t* indices, const int64_t* offsets, int64_t n, int64_t features, int64_t* starts,
         int64_t* entries, int32_t* tokens, int threads);

}  // namespace ms
