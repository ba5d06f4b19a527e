// What the device code shares: 16-byte loads, sums in a fixed order, element types. Knows CUDA and nothing else.
//
// N is the number of neighbouring columns that one thread handles: 16 bytes of the matrix that is gathered (4 of fp32,
// 8 of bf16), or 1 where the width or an address does not allow it. All sums are in fp32 and in an order that depends
// on shapes alone, so that every run gives the same bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "arguments.h"

namespace ms {

#define MS_DEVICE __device__ __forceinline__

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;

// The block's dynamic shared memory.
template <class T>
MS_DEVICE T* shared_memory() {
  extern __shared__ float4 ms_shared[];
  return reinterpret_cast<T*>(ms_shared);
}

template <int N>
struct Values {
  float v[N];
};

template <int N>
MS_DEVICE Values<N> zeros() {
  Values<N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.v[i] = 0.0f;
  return out;
}

// What a thread holds of a row while the load is under way: converted only when it is used, so that several are in
// flight in few registers.
template <class T, int N>
struct Piece;

template <>
struct Piece<float, 1> {
  float raw;
  MS_DEVICE static Piece load(const float* p) { return {*p}; }
  MS_DEVICE static Piece none() { return {0.0f}; }
  MS_DEVICE float get(int) const { return raw; }
};

template <>
struct Piece<float, 4> {
  float4 raw;
  MS_DEVICE static Piece load(const float* p) { return {*reinterpret_cast<const float4*>(p)}; }
  MS_DEVICE static Piece none() { return {make_float4(0.0f, 0.0f, 0.0f, 0.0f)}; }
  MS_DEVICE float get(int i) const { return i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w; }
};

MS_DEVICE float from_bits(unsigned bits) { return __uint_as_float(bits); }

template <>
struct Piece<bf16, 1> {
  unsigned raw;
  MS_DEVICE static Piece load(const bf16* p) { return {unsigned(p->bits) << 16}; }
  MS_DEVICE static Piece none() { return {0u}; }
  MS_DEVICE float get(int) const { return from_bits(raw); }
};

template <>
struct Piece<bf16, 8> {
  uint4 raw;
  MS_DEVICE static Piece load(const bf16* p) { return {*reinterpret_cast<const uint4*>(p)}; }
  MS_DEVICE static Piece none() { return {make_uint4(0u, 0u, 0u, 0u)}; }
  MS_DEVICE float get(int i) const {
    const unsigned word = i < 2 ? raw.x : i < 4 ? raw.y : i < 6 ? raw.z : raw.w;
    return from_bits(i % 2 ? word & 0xffff0000u : word << 16);
  }
};

// N columns of fp32, in 16-byte loads where N allows.
template <int N>
MS_DEVICE Values<N> load(const float* p) {
  Values<N> out;
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(p + i);
      out.v[i] = four.x, out.v[i + 1] = four.y, out.v[i + 2] = four.z, out.v[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = p[i];
  }
  return out;
}

template <int N>
MS_DEVICE Values<N> load(const bf16* p) {
  Values<N> out;
  if constexpr (N == 4) {
    const uint2 four = *reinterpret_cast<const uint2*>(p);
    out.v[0] = from_bits(four.x << 16), out.v[1] = from_bits(four.x & 0xffff0000u);
    out.v[2] = from_bits(four.y << 16), out.v[3] = from_bits(four.y & 0xffff0000u);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out.v[i] = from_bits(unsigned(p[i].bits) << 16);
  }
  return out;
}

template <int N>
MS_DEVICE void store(float* p, const Values<N>& x) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4)
      *reinterpret_cast<float4*>(p + i) = make_float4(x.v[i], x.v[i + 1], x.v[i + 2], x.v[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = x.v[i];
  }
}

// Round to nearest even; NaN stays NaN.
MS_DEVICE unsigned bf16_bits(float x) {
  const unsigned bits = __float_as_uint(x);
  return x != x ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// N numbers of 16 bits, given below 2¹⁶.
template <int N>
MS_DEVICE void store_halves(bf16* p, const unsigned (&bits)[N]) {
  if constexpr (N == 4) {
    *reinterpret_cast<uint2*>(p) = make_uint2(bits[0] | bits[1] << 16, bits[2] | bits[3] << 16);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i].bits = uint16_t(bits[i]);
  }
}

template <int N>
MS_DEVICE void store(bf16* p, const Values<N>& x) {
  unsigned bits[N];
#pragma unroll
  for (int i = 0; i < N; ++i) bits[i] = bf16_bits(x.v[i]);
  store_halves(p, bits);
}

// A sum with compensation of its rounding errors. In one long chain rounding would grow with the length of the row, most in
// rows of one sign, and in rows that are constant every lane would err alike.
struct LongSum {
  float total = 0.0f, lost = 0.0f;

  MS_DEVICE void add(float x) {
    const float sum = total + x, joined = sum - total;
    lost += (total - (sum - joined)) + (x - joined);
    total = sum;
  }
  // Of an infinite sum it is not a number.
  MS_DEVICE float value() const { return lost == lost ? total + lost : total; }
};

template <class T>
MS_DEVICE T warp_sum(T x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// Sum over `threads` neighbouring threads: one warp, or the whole block (a multiple of 32), which then needs 32 slots of
// shared memory and must come here together. All get the same sum.
template <class T>
MS_DEVICE T sum_over(T x, int threads, T* slots) {
  x = warp_sum(x);
  if (threads > kWarp) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    __syncthreads();  // the slots of an earlier sum may still be read
    if (lane == 0) slots[warp] = x;
    __syncthreads();
    x = warp_sum(lane < threads / kWarp ? slots[lane] : T(0));
  }
  return x;
}

// Exclusive sums of one value per thread over the block, and their total.
MS_DEVICE int exclusive_sum(int value, int* slots, int& total) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  int sum = value;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();  // the slots of an earlier sum may still be read
  if (lane == kWarp - 1) slots[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int i = 0; i < warps; ++i) {
    if (i < warp) before += slots[i];
    total += slots[i];
  }
  return before + sum - value;
}

// 1/√x for x > 0, 0 for 0: the quick instruction and one step of Newton's.
MS_DEVICE float inverse_root(float x) {
  if (!(x > 0.0f)) return x == 0.0f ? 0.0f : x;  // NaN stays
  const float r = rsqrtf(x);
  return r + 0.5f * r * (1.0f - x * r * r);
}

MS_DEVICE float fast_sqrt(float x) {  // relative error ≤ 2⁻²³; the square root in Adam's denominator
#ifdef __CUDA_ARCH__
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#else
  return sqrtf(x);
#endif
}

// The first position of an ascending array whose element is > x (or ≥ x).
template <class T, class X>
MS_DEVICE int64_t upper_bound(const T* array, int64_t length, X x) {
  int64_t low = 0, high = length;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (array[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

template <class T, class X>
MS_DEVICE int64_t lower_bound(const T* array, int64_t length, X x) {
  int64_t low = 0, high = length;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (array[middle] >= x) high = middle;
    else low = middle + 1;
  }
  return low;
}

}  // namespace ms
