// The kernels for AVX2 with VNNI, which multiplies and adds 8- and 16-bit numbers in one instruction.
#include "prelude.h"

#ifdef MS_HAS_AVXVNNI
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#endif

#define MS_ISA avxvnni
#define MS_VNNI
#define MS_TABLE kAvxVnni
#define MS_WIDTH 8
#include "bodies.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
