// The kernels for any processor of the target architecture (SSE2 on x86-64, NEON on 64-bit Arm).
#include "prelude.h"

#define MS_ISA baseline
#define MS_TABLE kBaseline
#define MS_WIDTH 4
#include "bodies.inc"
