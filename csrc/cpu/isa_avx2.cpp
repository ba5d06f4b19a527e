// The kernels for AVX2 with FMA.
#include "kernels.h"

#ifdef MS_X86
#define MS_TARGET MS_AVX2
#include "table-inl.h"
#endif
