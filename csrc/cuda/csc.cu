// Launcher of the counting sort: two passes of up to ten bits each for up to a million features.
#include "../../kernels/csc/csc.cuh"

#include "kernels.h"
#include "launch.h"

namespace ms::cuda {
namespace {

struct Plan {
  int passes, bits;
  int64_t blocks;
};

Plan plan_for(int64_t nnz, int64_t features) {
  int wanted = 1;  // bits; unused room behind the entries has the feature `features` itself, and sorts behind all
  while (wanted < 31 && (int64_t{1} << wanted) <= features) ++wanted;
  const int passes = (wanted + kMaxDigitBits - 1) / kMaxDigitBits;
  return {passes, (wanted + passes - 1) / passes, blocks_for(nnz, kSortTile)};
}

}  // namespace

int64_t csc_workspace(int64_t nnz, int64_t features) {
  const Plan plan = plan_for(nnz, features);
  return 4 * nnz + (plan.blocks + 1) * (int64_t{1} << plan.bits);
}

void csc(const Code& code, int64_t nnz, int64_t features, int64_t* starts, int64_t* entries, int32_t* tokens,
         int32_t* workspace, cudaStream_t stream) {
  const int64_t n = code.n;
  if (nnz > 0x7fffffff || n > 0x7fffffff || features > 0x7fffffff)
    throw std::invalid_argument("csc: " + std::to_string(n) + " tokens with " + std::to_string(nnz) +
                                " entries; at most 2147483647 of each fit into int32. Give fewer tokens at a time");
  const Plan plan = plan_for(nnz, features);
  const int digits = 1 << plan.bits;
  int32_t *keys[2] = {workspace, workspace + nnz}, *payload[2] = {workspace + 2 * nnz, workspace + 3 * nnz};
  int32_t *counts = workspace + 4 * nnz, *totals = counts + plan.blocks * digits;
  const int32_t *keys_in = code.indices, *payload_in = nullptr;
  for (int p = 0; p < plan.passes && nnz; ++p) {
    const bool last = p == plan.passes - 1;
    const SortPass pass{keys_in, payload_in, nnz, plan.blocks, p * plan.bits, plan.bits};
    const SortOutput out{keys[p % 2], payload[p % 2], last ? entries : nullptr, tokens, code.offsets, n};
    launch("csc (count)", {plan.blocks, kSortThreads, digits * 4, stream}, sort_count_kernel, pass, counts);
    launch("csc (scan)", {digits, kSortThreads, 32 * 4, stream}, sort_scan_kernel, counts, plan.blocks, totals);
    launch("csc (place)", {plan.blocks, kSortThreads, ((kSortWarps + 1) * digits + 32) * 4, stream}, sort_place_kernel,
           pass, counts, totals, out);
    keys_in = out.keys, payload_in = out.payload;
  }
  launch("csc (starts)", {blocks_for(features + 1, 256), 256, 0, stream}, sort_starts_kernel, keys_in, nnz, features,
         starts);
}

}  // namespace ms::cuda
