// The launchers of the module _cuda. Each one queues work on its stream; none allocates memory or synchronises.
#pragma once

#include <cuda_runtime.h>

#include "../../kernels/common/arguments.h"

namespace ms::cuda {

// `threads` per block: a multiple of 32 up to 512; 0 lets the launcher choose. `nnz`: entries of the code, with the unused
// room behind them.
void sparse_decode(const Code&, const Weights&, const float* bias, float* out, int threads, cudaStream_t);
void gather_dot(const Code&, const Weights&, const float* g, float scale, float* out, cudaStream_t);
void decode_loss(const Code&, int64_t nnz, const Weights&, const float* bias, const float* x, float* loss,
                 float* residual, float* slopes, int threads, cudaStream_t);

int64_t csc_workspace(int64_t nnz, int64_t features);  // int32s
void csc(const Code&, int64_t nnz, int64_t features, int64_t* starts, int64_t* entries, int32_t* tokens,
         int32_t* workspace, cudaStream_t);

// `pieces`: room for (nnz >> cut_bits) · D floats, or null: then hot features are not split.
void row_grad(const Csc&, const RowSum&, int64_t nnz, float* pieces, float* out, int threads, cudaStream_t);
void feature_sum(const Csc&, const float* coef, float* out, cudaStream_t);

// `live`: the factors in device memory, which replace those of the step; or null.
void row_adam(float* w, int64_t rows, const Moments&, const EncoderCopy&, const float* g, int64_t d, const AdamStep&,
              const AdamFactors* live, int threads, cudaStream_t);
void row_grad_adam(float* w, const Moments&, const EncoderCopy&, const Csc&, const RowSum&, int64_t nnz, float* pieces,
                   float scale, const AdamStep&, const AdamFactors* live, int threads, cudaStream_t);
// `totals`: room for nnz >> cut_bits doubles, beside `pieces`.
void encoder_grad_adam(float* w, const Moments&, const EncoderCopy&, const Csc&, const RowSum&, int64_t nnz,
                       float* pieces, double* totals, const EncoderSums&, const AdamStep&, const AdamFactors* live,
                       int threads, cudaStream_t);

int64_t resample_workspace();  // doubles
void resample(float* w_enc, float* w_dec, float* b_enc, int64_t features, int64_t d, const int64_t* chosen,
              int64_t n_chosen, const float* inputs, const uint8_t* alive, float factor, double* workspace,
              cudaStream_t);

}  // namespace ms::cuda
