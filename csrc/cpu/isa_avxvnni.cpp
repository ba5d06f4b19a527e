// The kernels for AVX2 with VNNI, which multiplies and adds 8- and 16-bit numbers in one instruction.
#include "kernels.h"

#ifdef MS_HAS_AVXVNNI
#define MS_TARGET MS_AVXVNNI
#include "table-inl.h"
#endif
