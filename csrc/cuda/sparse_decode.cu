// Launchers of sparse_decode, gather_dot and decode_loss: which load width, how many threads.
#include "../../kernels/sparse_decode/sparse_decode.cuh"

#include "../../kernels/decode_loss/decode_loss.cuh"
#include "kernels.h"
#include "launch.h"

namespace ms::cuda {
namespace {

struct Shape {
  int lanes, threads;
};

// One thread for each N columns up to 256; where columns are few, several groups share a token's entries.
Shape shape_for(int64_t d, int n, int threads) {
  const int wanted = threads ? threads : 256;
  const int64_t columns = blocks_for(d, n);
  const int lanes = int(std::min<int64_t>(wanted, blocks_for(columns, kWarp) * kWarp));
  return {lanes, lanes * std::max(1, wanted / lanes)};
}

// call(type, width): with N = 16 bytes of the matrix where D and the addresses allow, else 1.
template <class Call, class... P>
void typed(const Weights& w, const Call& call, const P*... rows) {
  const bool wide = all_aligned(static_cast<const char*>(w.data), rows...);
  if (w.dtype == Dtype::f32) {
    const float* data = static_cast<const float*>(w.data);
    if (wide && w.d % 4 == 0) call(data, std::integral_constant<int, 4>{});
    else call(data, std::integral_constant<int, 1>{});
  } else {
    const bf16* data = static_cast<const bf16*>(w.data);
    if (wide && w.d % 8 == 0) call(data, std::integral_constant<int, 8>{});
    else call(data, std::integral_constant<int, 1>{});
  }
}

}  // namespace

void sparse_decode(const TokenEntries& code, int64_t n, const Weights& w, const float* bias, float* out, int threads,
                   cudaStream_t stream) {
  typed(w, [&](const auto* data, auto width) {
    constexpr int N = decltype(width)::value;
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    const Shape s = shape_for(w.d, N, threads);
    launch("sparse_decode", {n, s.threads, gather_shared_bytes(s.threads, s.lanes, N), stream},
           sparse_decode_kernel<T, N>, code, data, w.d, bias, s.lanes, out);
  }, bias, out);
}

void gather_dot(const TokenEntries& code, int64_t n, const Weights& w, const float* g, float scale, float* out,
                cudaStream_t stream) {
  typed(w, [&](const auto* data, auto width) {
    constexpr int N = decltype(width)::value;
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    launch("gather_dot", {n, 256, 0, stream}, gather_dot_kernel<T, N>, code, data, w.d, g, scale, out);
  }, g);
}

void decode_loss(const TokenEntries& code, int64_t n, int64_t nnz, const Weights& w, const float* bias, const float* x,
                 float* loss, float* residual, float* slopes, int threads, cudaStream_t stream) {
  threads = threads ? threads : 256;
  const int warps = threads / kWarp;
  const int64_t each = n ? blocks_for(blocks_for(nnz, n), warps) : 0;  // rows of a token that a warp would hold
  typed(w, [&](const auto* data, auto width) {
    constexpr int N = decltype(width)::value;
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    const auto start = [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      launch("decode_loss", {n, threads, decode_loss_shared_bytes(warps, N, R), stream}, decode_loss_kernel<T, N, R>,
             code, data, w.d, bias, x, 1.0 / double(w.d), loss, residual, slopes);
    };
    if (each <= 4) start(std::integral_constant<int, 4>{});
    else if (each <= 8) start(std::integral_constant<int, 8>{});
    else start(std::integral_constant<int, 16>{});
  });
}

}  // namespace ms::cuda
