// A stand-in for CUDA's header: runs kernels on the processor, so that the device code and its launchers are tested
// where there is no GPU. The threads of a block are fibers. Blocks, and the threads between two barriers, run in a
// random order (EMULATOR_SEED); shared memory is full of NaN when a block begins and may not be written past its size;
// a barrier that not all threads reach, or that they reach at different places, ends the process with a message.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#define MS_EMULATED  // tensors are on the CPU
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

constexpr size_t kEmulatedShared = 48 << 10;  // what a block may have without asking
namespace ms {
inline float4 ms_shared[kEmulatedShared / 16];  // the name that the device code gives its dynamic shared memory
}

namespace emulator {

constexpr int kMaxThreads = 1024, kStack = 1 << 16;

enum class State { ready, block, warp, done };
struct Fiber {
  jmp_buf at;
  ucontext_t context;
  std::vector<char> stack;
  bool fresh = true;
  State state = State::done;
  int line = 0;  // of the barrier or exchange that it waits at
  int turn = 0;  // parity of exchanges: nobody overwrites what another lane has yet to read
  uint64_t slot[2] = {};
};

struct Machine {
  std::vector<Fiber> fibers{kMaxThreads};
  int threads = 0, running = 0;
  jmp_buf scheduler;
  dim3 grid, block, index;
  std::function<void()> body;
  std::mt19937_64 random{std::getenv("EMULATOR_SEED") ? std::strtoull(std::getenv("EMULATOR_SEED"), nullptr, 10) : 1};
};
inline Machine machine;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s (block %u, thread %d)\n", what, machine.index.x, machine.running);
  std::abort();
}

__attribute__((noinline)) inline void yield() {
  if (!_setjmp(machine.fibers[machine.running].at)) _longjmp(machine.scheduler, 1);
}

inline void fiber_main() {
  for (;;) {
    machine.body();
    machine.fibers[machine.running].state = State::done;
    yield();
  }
}

__attribute__((noinline)) inline void resume(int thread) {
  Fiber& f = machine.fibers[thread];
  machine.running = thread;
  if (_setjmp(machine.scheduler)) return;
  if (!f.fresh) _longjmp(f.at, 1);
  f.fresh = false;
  f.stack.resize(kStack);
  getcontext(&f.context);
  f.context.uc_stack = {f.stack.data(), 0, f.stack.size()};
  makecontext(&f.context, fiber_main, 0);
  setcontext(&f.context);
}

inline void wait(State state, int line) {
  Fiber& f = machine.fibers[machine.running];
  f.state = state, f.line = line;
  yield();
}

// Whether these threads all wait in this state; then they may go on.
inline bool release(int first, int last, State state, bool done_counts) {
  auto& fibers = machine.fibers;
  int line = 0;
  for (int t = first; t < last; ++t) {
    if (done_counts && fibers[t].state == State::done) continue;
    if (fibers[t].state != state) return false;
    if (line && fibers[t].line != line) fail("threads wait for each other at different places");
    line = fibers[t].line;
  }
  for (int t = first; t < last && line; ++t)
    if (fibers[t].state == state) fibers[t].state = State::ready, fibers[t].turn ^= state == State::warp;
  return line != 0;
}

inline void run_block() {
  Machine& m = machine;
  std::vector<int> order(m.threads);
  std::iota(order.begin(), order.end(), 0);
  for (;;) {
    std::shuffle(order.begin(), order.end(), m.random);
    for (int t : order)
      if (m.fibers[t].state == State::ready) resume(t);
    bool any = false;
    for (int t = 0; t < m.threads; t += 32) any |= release(t, t + 32, State::warp, false);
    if (any) continue;
    if (release(0, m.threads, State::block, true)) continue;
    for (int t = 0; t < m.threads; ++t)
      if (m.fibers[t].state != State::done) fail("a barrier or exchange that not all threads reach");
    return;
  }
}

template <class... Wanted, class... Given>
void launch(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Wanted...), Given... args) {
  Machine& m = machine;
  m.grid = grid, m.block = block, m.threads = int(block.x);
  if (block.x > kMaxThreads || block.x % 32 || block.y * block.z * grid.y * grid.z != 1) fail("only whole warps along x");
  if (!grid.x || shared_bytes > kEmulatedShared) fail("no block, or more shared memory than a block has");
  m.body = [=] { kernel(static_cast<Wanted>(args)...); };
  std::vector<unsigned> order(grid.x);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), m.random);
  const auto* bytes = reinterpret_cast<const unsigned char*>(ms::ms_shared);
  for (unsigned b : order) {
    m.index = dim3(b);
    std::memset(static_cast<void*>(ms::ms_shared), 0xff, kEmulatedShared);
    for (int t = 0; t < m.threads; ++t) m.fibers[t].state = State::ready, m.fibers[t].turn = 0;
    run_block();
    for (size_t i = shared_bytes; i < kEmulatedShared; ++i)
      if (bytes[i] != 0xff) fail("a block wrote past its shared memory");
  }
}

// Every lane of a warp gives a value; what is returned reads any lane's.
template <class T>
auto exchange(T value, int line) {
  static_assert(sizeof(T) <= 8);
  Fiber& f = machine.fibers[machine.running];
  const int turn = f.turn, first = machine.running / 32 * 32;
  std::memcpy(&f.slot[turn], &value, sizeof(T));
  wait(State::warp, line);
  return [=](int lane) {
    T out;
    std::memcpy(&out, &machine.fibers[first + (lane & 31)].slot[turn], sizeof(T));
    return out;
  };
}

inline int lane() { return machine.running % 32; }

template <class T>
T shuffle_up(T value, int by, int line) {
  const auto read = exchange(value, line);
  return lane() < by ? value : read(lane() - by);
}

template <class T>
unsigned match_any(T value, int line) {
  const auto read = exchange(value, line);
  unsigned equal = 0;
  for (int i = 0; i < 32; ++i) equal |= unsigned(read(i) == value) << i;
  return equal;
}

inline unsigned ballot(bool value, int line) {
  const auto read = exchange(value, line);
  unsigned set = 0;
  for (int i = 0; i < 32; ++i) set |= unsigned(read(i)) << i;
  return set;
}

}  // namespace emulator

#define threadIdx (dim3(unsigned(emulator::machine.running)))
#define blockIdx (emulator::machine.index)
#define blockDim (emulator::machine.block)
#define gridDim (emulator::machine.grid)
#define __syncthreads() emulator::wait(emulator::State::block, __LINE__)
#define __syncwarp() emulator::exchange(0, __LINE__)
#define __shfl_sync(mask, x, from) emulator::exchange(x, __LINE__)(from)
#define __shfl_xor_sync(mask, x, bits) emulator::exchange(x, __LINE__)(emulator::lane() ^ (bits))
#define __shfl_up_sync(mask, x, by) emulator::shuffle_up(x, by, __LINE__)
#define __match_any_sync(mask, x) emulator::match_any(x, __LINE__)
#define __ballot_sync(mask, x) emulator::ballot(x, __LINE__)

inline int atomicAdd(int* at, int by) { return std::exchange(*at, *at + by); }
inline int atomicOr(int* at, int bits) { return std::exchange(*at, *at | bits); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __float_as_uint(float x) { unsigned b; std::memcpy(&b, &x, 4); return b; }
inline float __uint_as_float(unsigned b) { float x; std::memcpy(&x, &b, 4); return x; }
// As far off as CUDA's guide allows, up to two units either way; the same for the same result.
inline float two_units_off(float x) {
  const unsigned bits = __float_as_uint(x), exponent = bits >> 23 & 0xff;
  return exponent < 2 || exponent > 0xfd ? x : __uint_as_float(bits + (bits * 2654435761u >> 16) % 5 - 2);
}
inline float __fdividef(float a, float b) { return two_units_off(a / b); }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline float rsqrtf(float x) { return two_units_off(1.0f / std::sqrt(x)); }
