// Element types of weights as they come from PyTorch.
#pragma once

#include <cstdint>

namespace ms {

struct bf16 {
  uint16_t bits;
};

enum class Dtype : int { f32 = 0, bf16 = 1, int8 = 2 };  // int8: of Adam's moments only

}  // namespace ms
