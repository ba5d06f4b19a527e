// The kernels for any processor of the target architecture (SSE2 on x86-64, NEON on 64-bit Arm).
#define MS_TARGET MS_BASELINE
#include "table-inl.h"
