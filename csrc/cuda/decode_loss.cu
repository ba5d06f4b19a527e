// Launcher of decode_loss: load width, and how many rows of a token a warp holds.
#include "../../kernels/decode_loss/decode_loss.cuh"

#include "kernels.h"
#include "launch.h"
#include "weights.h"

namespace ms::cuda {

void decode_loss(const Code& code, int64_t nnz, const Weights& w, const float* bias, const float* x, float* loss,
                 float* residual, float* slopes, int threads, cudaStream_t stream) {
  threads = threads ? threads : 256;
  const int warps = threads / kWarp;
  const int64_t per_warp = code.n ? blocks_for(blocks_for(nnz, code.n), warps) : 0;
  dispatch_dtype(w, [&](const auto* data, auto width) {
    constexpr int N = decltype(width)::value;
    const auto start = [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      launch("decode_loss", {code.n, threads, decode_loss_shared_bytes(warps, N, R), stream},
             decode_loss_kernel<element<decltype(data)>, N, R>, code, data, w.d, bias, x, 1.0 / double(w.d), loss,
             residual, slopes);
    };
    if (per_warp <= 4) start(std::integral_constant<int, 4>{});
    else if (per_warp <= 8) start(std::integral_constant<int, 8>{});
    else start(std::integral_constant<int, 16>{});
  });
}

}  // namespace ms::cuda
