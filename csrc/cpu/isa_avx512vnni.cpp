// The kernels for AVX-512 with VNNI, which multiplies and adds 16-bit numbers in one instruction.
#include "prelude.h"

#ifdef MS_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#endif

#define MS_ISA avx512vnni
#define MS_VNNI
#define MS_TABLE kAvx512Vnni
#define MS_WIDTH 16
#include "bodies.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
