// What kernels are given, as plain structures: launchers and bindings need no device code to speak of them.
#pragma once

#include <cstdint>

#include "../../csrc/core/dtype.h"

namespace ms {

struct TokenEntries {  // a code in CSR form
  const float* values;
  const int32_t* indices;
  const int64_t* offsets;
};

struct FeatureEntries {  // the code sorted by feature (CSC)
  const int64_t* starts;
  const int64_t* entries;
  const int32_t* tokens;
  int64_t features;
};

struct RowSum {  // Σ coef · u
  const float* coef;
  const float* u;
  int64_t d;
  const float* pieces;  // sums of the pieces that lie inside one feature, 2^cut_bits entries each; null: none was made
  int cut_bits;
  const float* bias;           // each entry's bias gradient, where their sums are wanted too
  const double* piece_totals;  // those of the pieces
};

struct EncoderSums {  // what the encoder's sweep also sums
  float* bias;        // [F], of the entries' bias gradients
  float* weighted;    // [F / together, D], of the rows before the step, times that
  int together;       // features that follow one another in one thread's hands
};

struct AdamFactors {  // as torch.optim.Adam forms them, in double; in device memory where they change between replays
  float add1, keep2, add2, inverse_root2, step_size, eps;
  uint32_t step;  // for the noise of rounding
  float root2;    // read by kernels that divide by it instead
};

struct AdamRows {
  float* w;
  void *m, *v;    // float, or both bf16, rounded stochastically
  bf16* copy;     // what the next encode reads, or null
  float* norms;   // with it: ‖w‖ of every row, then ‖w − copy‖, a thousandth more
  int64_t width;  // of a row of the copy
  int64_t rows;
  bool bf16_moments, unit;
  bool lazy;  // leave a row alone whose gradient is 0 everywhere
};

}  // namespace ms
