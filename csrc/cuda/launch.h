// How kernels are started: on the caller's stream, with the error of the launch itself turned into an exception.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace ms::cuda {

constexpr int64_t kMaxBlocks = 0x7fffffff;

struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  cudaStream_t stream;
};

// kernel(args…) on the grid. A grid of no blocks is no launch.
template <class... Wanted, class... Given>
void launch(const char* name, const Grid& grid, void (*kernel)(Wanted...), Given... args) {
  if (grid.blocks == 0) return;
  if (grid.blocks < 0 || grid.blocks > kMaxBlocks)
    throw std::invalid_argument(std::string(name) + ": " + std::to_string(grid.blocks) +
                                " blocks, but a GPU starts at most 2147483647 at a time; give fewer tokens or features");
#ifdef __CUDACC__
  kernel<<<dim3(unsigned(grid.blocks)), dim3(unsigned(grid.threads)), size_t(grid.shared_bytes), grid.stream>>>(
      static_cast<Wanted>(args)...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(name) + ": the launch failed: " + cudaGetErrorString(error) +
                             ". `monosem doctor` says which GPUs this build has code for");
#else
  emulator::launch(dim3(unsigned(grid.blocks)), dim3(unsigned(grid.threads)), size_t(grid.shared_bytes), kernel,
                   args...);
#endif
}

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class... P>
bool all_aligned(const P*... p) {
  return (aligned(p) && ...);
}

inline int64_t blocks_for(int64_t items, int64_t each) { return (items + each - 1) / each; }

}  // namespace ms::cuda
