// Arguments of the kernels as plain structures: device code, launchers, the CPU kernels and the bindings share them.
// Includes point from csrc to kernels, never back.
#pragma once

#include <cstdint>

namespace ms {

struct bf16 {
  uint16_t bits;
};

enum class Dtype : int { f32, bf16, int8 };  // of weights and moments as they come from PyTorch; int8: moments only

struct Weights {  // [F, D], one row per feature
  const void* data;
  Dtype dtype;
  int64_t d;
};

struct Code {  // entries of `n` tokens in CSR form
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

struct RowSum {  // Σ coef · u
  const float* coef;
  const float* u;
  int64_t d;
  const float* pieces;  // sums of the pieces that lie inside one feature, 2^cut_bits entries each; null: there are none
  int cut_bits;
  const float* bias;           // each entry's bias gradient, where their sums are computed too
  const double* piece_totals;  // sums of the bias gradients of each piece
};

struct EncoderSums {  // sums that the encoder's sweep computes on its way
  float* bias;        // [F], of the entries' bias gradients
  float* weighted;    // [F / together, D], of the rows before the step, times their bias gradient
  int together;       // consecutive features per thread
};

struct Own {  // multiples of a row itself that are added to its gradient, one for each of `blocks` equal parts of it
  const float* factors = nullptr;  // [F, blocks]; null: none
  int64_t blocks = 1;
};

struct AdamStep {
  double lr, beta1, beta2, eps;  // double: 1 − 0.999 loses half its digits in float
  int64_t step;
  bool unit;  // rows have unit norm: project the gradient, and normalise after the step
  bool lazy;  // skip rows whose gradient is 0 everywhere
  Own own;
};

struct Moments {  // Adam's two; in bf16 and int8 they are rounded stochastically
  void *m, *v;
  Dtype dtype;
  float *m_scale, *v_scale;  // int8: a row's largest |m| and √v; else null
};

struct EncoderCopy {  // the encoder in bf16, which the next encode reads; null: none
  bf16* data;
  float* norms;    // [2, F]: ‖w‖ of every row, then ‖w − copy‖, a thousandth more
  int64_t stride;  // from row to row
};

struct AdamFactors {  // as torch.optim.Adam forms them, in double; in device memory where they change between replays
  float add1, keep2, add2, inverse_root2, step_size, eps;
  uint32_t step;  // for the noise of rounding
  float root2;    // read by kernels that divide by it instead
};

struct AdamRows {  // weight rows that a GPU kernel updates
  float* w;
  int64_t rows;
  Moments moments;
  EncoderCopy copy;
  bool unit, lazy;
  Own own;
  uint32_t own_width;  // columns per number of `own`
};

}  // namespace ms
