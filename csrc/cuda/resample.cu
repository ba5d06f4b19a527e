// Launcher of resample: the mean norm of the living first, then the chosen rows.
#include "../../kernels/resample/resample.cuh"

#include "kernels.h"
#include "launch.h"

namespace ms::cuda {

int64_t resample_workspace() { return kNormBlocks * int64_t(sizeof(NormPart) / sizeof(double)); }

void resample(float* w_enc, float* w_dec, float* b_enc, int64_t features, int64_t d, const int64_t* chosen,
              int64_t n_chosen, const float* inputs, const uint8_t* alive, float factor, double* workspace,
              cudaStream_t stream) {
  NormPart* parts = reinterpret_cast<NormPart*>(workspace);
  launch("resample (norms)", {kNormBlocks, 256, 32 * 8, stream}, alive_norms_kernel, w_enc, alive, features, d, parts);
  launch("resample", {n_chosen, kNormBlocks, 32 * 8, stream}, resample_kernel, w_enc, w_dec, b_enc, d, chosen, inputs,
         parts, factor);
}

}  // namespace ms::cuda
