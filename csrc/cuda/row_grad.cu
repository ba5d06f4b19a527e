// Launchers of row_grad and feature_sum, and of the sums of hot features that row_adam uses too.
#include "../../kernels/row_grad/row_grad.cuh"

#include "kernels.h"
#include "launch.h"
#include "rows.h"

namespace ms::cuda {
namespace {

constexpr int kLoads = 4;  // of a lane in flight, where it adds single numbers

}  // namespace

RowSum hot_pieces(const Csc& code, RowSum sum, int64_t nnz, float* pieces, double* totals, int threads,
                  cudaStream_t stream) {
  sum.pieces = nullptr;
  if (pieces == nullptr || (nnz >> sum.cut_bits) == 0) return sum;
  dispatch_widths(all_aligned(sum.u, pieces), sum.d, threads, [&](auto n, auto v, const RowShape& s) {
    constexpr int N = decltype(n)::value, V = decltype(v)::value;
    launch("row_grad (hot features)", {nnz >> sum.cut_bits, s.lanes, 0, stream}, hot_piece_kernel<N, V>, code, sum,
           pieces);
  });
  if (totals)
    launch("row_grad (bias of hot features)", {blocks_for(nnz >> sum.cut_bits, 256 / kWarp), 256, 0, stream},
           piece_total_kernel<kLoads>, code, sum, nnz >> sum.cut_bits, totals);
  sum.pieces = pieces, sum.piece_totals = totals;
  return sum;
}

void row_grad(const Csc& code, const RowSum& factors, int64_t nnz, float* pieces, float* out, int threads,
              cudaStream_t stream) {
  const RowSum sum = hot_pieces(code, factors, nnz, pieces, nullptr, threads, stream);
  dispatch_widths(all_aligned(sum.u, out, sum.pieces), sum.d, threads, [&](auto n, auto v, const RowShape& s) {
    constexpr int N = decltype(n)::value, V = decltype(v)::value;
    launch("row_grad", {row_grid(code.features, s), s.threads, 0, stream}, row_grad_kernel<N, V>, code, sum, s.lanes,
           out);
  });
}

void feature_sum(const Csc& code, const float* coef, float* out, cudaStream_t stream) {
  launch("feature_sum", {blocks_for(code.features, 256 / kWarp), 256, 0, stream}, feature_sum_kernel<kLoads>, code,
         coef, out);
}

}  // namespace ms::cuda
