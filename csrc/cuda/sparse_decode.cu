// Launchers of sparse_decode and gather_dot: load width and threads.
#include "../../kernels/sparse_decode/sparse_decode.cuh"

#include "kernels.h"
#include "launch.h"
#include "weights.h"

namespace ms::cuda {
namespace {

struct Shape {
  int lanes, threads;
};

// One thread per N columns up to 256; where columns are few, several groups share a token's entries.
Shape shape_for(int64_t d, int n, int threads) {
  const int wanted = threads ? threads : 256;
  const int64_t columns = blocks_for(d, n);
  const int lanes = int(std::min<int64_t>(wanted, blocks_for(columns, kWarp) * kWarp));
  return {lanes, lanes * std::max(1, wanted / lanes)};
}

}  // namespace

void sparse_decode(const Code& code, const Weights& w, const float* bias, float* out, int threads,
                   cudaStream_t stream) {
  dispatch_dtype(w, [&](const auto* data, auto width) {
    constexpr int N = decltype(width)::value;
    const Shape s = shape_for(w.d, N, threads);
    launch("sparse_decode", {code.n, s.threads, gather_shared_bytes(s.threads, s.lanes, N), stream},
           sparse_decode_kernel<element<decltype(data)>, N>, code, data, w.d, bias, s.lanes, out);
  }, bias, out);
}

void gather_dot(const Code& code, const Weights& w, const float* g, float scale, float* out, cudaStream_t stream) {
  dispatch_dtype(w, [&](const auto* data, auto width) {
    constexpr int N = decltype(width)::value;
    launch("gather_dot", {code.n, 256, 0, stream}, gather_dot_kernel<element<decltype(data)>, N>, code, data, w.d, g,
           scale, out);
  }, g);
}

}  // namespace ms::cuda
