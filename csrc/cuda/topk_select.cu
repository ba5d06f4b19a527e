// Launcher of topk_select: candidates in shared memory where they fit, else in a workspace.
#include "../../kernels/topk_select.cuh"

#include "kernels.h"
#include "launch.h"

namespace ms::cuda {
namespace {

constexpr int64_t kInShared = 4096;  // candidates of 8 bytes

int64_t room_for(int64_t capacity, int64_t k) {
  int64_t room = 1;
  while (room < capacity || room < k) room *= 2;
  return room;
}

}  // namespace

int64_t topk_select_workspace(int64_t n, int64_t capacity, int64_t k) {
  const int64_t room = room_for(capacity, k);
  return room <= kInShared ? 0 : n * room;
}

void topk_select(const float* scores, const int32_t* features, const int32_t* count, int64_t n, int64_t capacity,
                 int64_t k, uint64_t* workspace, float* values, int32_t* indices, cudaStream_t stream) {
  const int64_t room = room_for(capacity, k);
  const bool in_shared = room <= kInShared;
  const int threads = int(std::clamp<int64_t>(room / 2, kWarp, 256));
  launch("topk_select", {n, threads, 32 * 4 + (in_shared ? room * 8 : 0), stream}, topk_select_kernel, scores, features,
         count, capacity, k, in_shared ? nullptr : workspace, room, values, indices);
}

}  // namespace ms::cuda
