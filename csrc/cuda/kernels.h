// The launchers: what the module _cuda offers. Every one only queues work on its stream; none allocates or waits.
#pragma once

#include <cuda_runtime.h>

#include "../../kernels/common/arguments.h"

namespace ms::cuda {

struct Weights {  // [F, D], one row a feature
  const void* data;
  Dtype dtype;
  int64_t d;
};

struct Adam {
  double lr, beta1, beta2, eps;  // double: 1 − 0.999 loses half its digits in float
  int64_t step;
};

AdamFactors adam_factors(const Adam&);

// `threads`: of a block, a multiple of 32 up to 512; 0 lets the launcher choose.
void sparse_decode(const TokenEntries&, int64_t n, const Weights&, const float* bias, float* out, int threads,
                   cudaStream_t);
void gather_dot(const TokenEntries&, int64_t n, const Weights&, const float* g, float scale, float* out, cudaStream_t);
void decode_loss(const TokenEntries&, int64_t n, int64_t nnz, const Weights&, const float* bias, const float* x,
                 float* loss, float* residual, float* slopes, int threads, cudaStream_t);

int64_t csc_workspace(int64_t nnz, int64_t features);  // int32s
void csc(const int32_t* indices, const int64_t* offsets, int64_t n, int64_t nnz, int64_t features, int64_t* starts,
         int64_t* entries, int32_t* tokens, int32_t* workspace, cudaStream_t);

// `pieces`: room for (nnz >> cut_bits) · D floats, or null: then hot features are not split.
void row_grad(const FeatureEntries&, const RowSum&, int64_t nnz, float* pieces, float* out, int threads, cudaStream_t);
void feature_sum(const FeatureEntries&, const float* coef, float* out, cudaStream_t);
void row_grad_adam(const AdamRows&, const FeatureEntries&, const RowSum&, int64_t nnz, float* pieces, float scale,
                   const Adam&, const AdamFactors* live, int threads, cudaStream_t);
// `totals`: room for nnz >> cut_bits doubles, beside `pieces`.
void encoder_grad_adam(const AdamRows&, const FeatureEntries&, const RowSum&, int64_t nnz, float* pieces,
                       double* totals, const EncoderSums&, const Adam&, const AdamFactors* live, int threads,
                       cudaStream_t);
void row_adam(const AdamRows&, const float* g, int64_t d, const Adam&, const AdamFactors* live, int threads,
              cudaStream_t);

int64_t resample_workspace();  // doubles
void resample(float* w_enc, float* w_dec, float* b_enc, int64_t features, int64_t d, const int64_t* chosen,
              int64_t n_chosen, const float* inputs, const uint8_t* alive, float factor, double* workspace,
              cudaStream_t);

}  // namespace ms::cuda
