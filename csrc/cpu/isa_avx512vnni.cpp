// The kernels for AVX-512 with VNNI, which multiplies and adds 8- and 16-bit numbers in one instruction.
#include "kernels.h"

#ifdef MS_X86
#define MS_TARGET MS_AVX512VNNI
#include "table-inl.h"
#endif
