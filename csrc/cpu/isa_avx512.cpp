// The kernels for AVX-512.
#include "kernels.h"

#ifdef MS_X86
#define MS_TARGET MS_AVX512
#include "table-inl.h"
#endif
