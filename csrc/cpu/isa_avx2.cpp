// The kernels for AVX2 with FMA.
#include "prelude.h"

#ifdef MS_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define MS_ISA avx2
#define MS_TABLE kAvx2
#define MS_WIDTH 8
#include "bodies.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
