// The instruction set that a source file is compiled for.
//
// isa_<name>.cpp defines MS_TARGET and includes table-inl.h. Headers named *-inl.h hold kernels, between MS_TARGET_BEGIN
// and MS_TARGET_END, in the namespace ms::MS_ISA: what stands there is compiled for that instruction set, and only that.
// Everything else is included above MS_TARGET_BEGIN: code of the standard library is shared between the instruction sets
// and must not be compiled for one of them. Parsed without MS_TARGET, by an editor or by tests/test_headers.py, they
// hold the kernels of the baseline.
#pragma once

#include "kernels.h"

#define MS_BASELINE 0    // SSE2 on x86-64, NEON on 64-bit Arm
#define MS_AVX2 1        // with FMA
#define MS_AVXVNNI 2     // AVX2 with instructions that multiply and add 8- and 16-bit numbers
#define MS_AVX512 3
#define MS_AVX512VNNI 4
#define MS_AMX 5         // that with tiles of 8-bit numbers

#ifndef MS_TARGET
#define MS_TARGET MS_BASELINE
#endif

#if defined(MS_X86) && MS_TARGET == MS_BASELINE
#include <emmintrin.h>
#elif defined(MS_X86)
#include <immintrin.h>
#endif

// MS_WIDTH: floats in a vector. MS_FEATURES: as the compiler's attribute `target` names them. MS_VNNI, MS_TILES: whether
// there are instructions that multiply and add small numbers, and tiles of them.
#if MS_TARGET == MS_BASELINE
#define MS_ISA baseline
#define MS_TABLE kBaseline
#define MS_WIDTH 4
#elif MS_TARGET == MS_AVX2
#define MS_ISA avx2
#define MS_TABLE kAvx2
#define MS_WIDTH 8
#define MS_FEATURES "avx2,fma"
#elif MS_TARGET == MS_AVXVNNI
#define MS_ISA avxvnni
#define MS_TABLE kAvxVnni
#define MS_WIDTH 8
#define MS_FEATURES "avx2,fma,avxvnni"
#define MS_VNNI
#elif MS_TARGET == MS_AVX512
#define MS_ISA avx512
#define MS_TABLE kAvx512
#define MS_WIDTH 16
#define MS_FEATURES "avx512f,avx512bw,avx512dq,avx512vl"
#elif MS_TARGET == MS_AVX512VNNI
#define MS_ISA avx512vnni
#define MS_TABLE kAvx512Vnni
#define MS_WIDTH 16
#define MS_FEATURES "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
#define MS_VNNI
#elif MS_TARGET == MS_AMX
#define MS_ISA amx
#define MS_TABLE kAmx
#define MS_WIDTH 16
#define MS_FEATURES "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8"
#define MS_VNNI
#define MS_TILES
#else
#error "MS_TARGET: wanted one of the instruction sets above"
#endif

#define MS_PRAGMA_(...) _Pragma(#__VA_ARGS__)
#define MS_PRAGMA(...) MS_PRAGMA_(__VA_ARGS__)
#if !defined(MS_FEATURES)
#define MS_TARGET_BEGIN
#define MS_TARGET_END
#elif defined(__clang__)
#define MS_TARGET_BEGIN MS_PRAGMA(clang attribute push(__attribute__((target(MS_FEATURES))), apply_to = function))
#define MS_TARGET_END MS_PRAGMA(clang attribute pop)
#else
#if MS_WIDTH == 16  // or GCC prefers vectors of half that width
#define MS_WIDEST "prefer-vector-width=512"
#define MS_TARGET_BEGIN MS_PRAGMA(GCC push_options) MS_PRAGMA(GCC target(MS_FEATURES, MS_WIDEST))
#else
#define MS_TARGET_BEGIN MS_PRAGMA(GCC push_options) MS_PRAGMA(GCC target(MS_FEATURES))
#endif
#define MS_TARGET_END MS_PRAGMA(GCC pop_options)
#endif

#define MS_INLINE static inline __attribute__((always_inline))
#define MS_METHOD __attribute__((always_inline))  // of a class or a lambda
