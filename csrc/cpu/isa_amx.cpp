// The kernels for AVX-512 with VNNI and AMX, which multiplies tiles of 8-bit numbers.
#include "kernels.h"

#ifdef MS_HAS_AMX
#define MS_TARGET MS_AMX
#include "table-inl.h"
#endif
