// Subtractive dither: numbers drawn once for each side, tokens and features, that are added before rounding and taken off
// the product afterwards. The rounding errors of a row's columns are then independent, and uniform, whatever the row is;
// docs/design/dithered_bound.md has the bound that follows. The draws are those of ops/selection/dithered.py.
#pragma once

#include <cstdint>
#include <vector>

#include "mixed-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

constexpr float kDitheredMost = 126.5f;  // the largest |r/s|: with a draw it rounds to 127 at most

// One draw per column, in [−½, ½); zeros up to a whole vector.
static std::vector<float> draws(int64_t d, bool tokens) {
  std::vector<float> u(d + MS_WIDTH);
  const uint32_t seed = tokens ? 0x3c6ef372u : 0x1b873593u;
  for (int64_t c = 0; c < d; ++c) u[c] = float(mixed(mixed(uint32_t(c) + seed) + 0x51ed270bu) >> 8) * 0x1p-24f - 0.5f;
  return u;
}

struct Dither {
  bool tokens = false;
  std::vector<float> own, other;  // of this side, and of the other; empty: none

  Dither() = default;
  Dither(int64_t d, bool of_tokens) : tokens(of_tokens), own(draws(d, of_tokens)), other(draws(d, !of_tokens)) {}
  explicit operator bool() const { return !own.empty(); }
};

}  // namespace ms::MS_ISA
MS_TARGET_END
