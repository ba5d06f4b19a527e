// Pseudorandom numbers from a place: the same in every run, for any number of threads.
#pragma once

#include <cstdint>

#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

// A well-mixed number for each element of a row: the noise of a rounding must repeat from run to run.
MS_INLINE uint32_t mixed(uint32_t h) {
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

}  // namespace ms::MS_ISA
MS_TARGET_END
