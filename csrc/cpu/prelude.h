// What the kernel bodies use, included before a target region opens: code of the standard library is shared between
// the instruction sets and must not be compiled for one of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../core/adam.h"
#include "../core/parallel.h"
#include "kernels.h"
