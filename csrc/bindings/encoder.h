// Operands of the encoder's product as Python hands them over: kept as views, and checked when a kernel is called.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "../cpu/kernels.h"
#include "register.h"

namespace ms::bindings {

// Candidates, and how many of them were rescored.
using Counts = std::pair<int64_t, int64_t>;

inline Counts counts_of(const Rescored& r) { return {r.candidates, r.rescored}; }

inline int64_t up_to(int64_t n, int64_t panel) { return (n + panel - 1) / panel * panel; }

inline IntProduct product_named(const std::string& name) {
  if (name == "int8") return IntProduct::int8;
  if (name == "int16") return IntProduct::int16;
  throw pybind11::value_error("product: got '" + name + "'; wanted 'int8' or 'int16'");
}

// The fp32 operands that candidates are rescored with.
struct ExactView {
  TensorView x, w, bias, threshold;

  // For all features that there is a bias of: at least `features`.
  Exact of(int64_t rows, int64_t features) const {
    const Weights weights = w.weights("w");
    bias.has("bias", features);
    w.has("w", bias.count() * weights.d);
    return {x.of<float>("x", {rows, weights.d}), weights, bias.at_least<float>("bias", 0),
            threshold ? threshold.at_least<float>("threshold", bias.count()) : nullptr};
  }
};

struct ErrorBoundsView {
  TensorView token, token_off, token_norm, norm, off;

  ErrorBounds of(int64_t rows, int64_t cols) const {
    return {token.at_least<float>("bounds.token", rows), token_off.at_least<float>("bounds.token_off", rows),
            token_norm.at_least<float>("bounds.token_norm", rows), norm.at_least<float>("bounds.norm", cols),
            off.at_least<float>("bounds.off", cols)};
  }
};

// Tokens × features by integers.
struct IntTileView {
  IntProduct product;
  IntTile tile;
};

// A tile of a product by PyTorch. In bf16 with an error bound per token.
inline Tile tile_of(const TensorView& tile, int64_t first, const TensorView& bias, const TensorView& error) {
  const Weights data = tile.weights("tile");
  const int64_t rows = tile.rows("tile"), cols = data.d;
  const float* by_token = error ? error.at_least<float>("error", rows) : nullptr;
  return {data.data, data.dtype, rows, cols, cols, first, bias.at_least<float>("bias", cols),
          {by_token, nullptr, nullptr, nullptr, nullptr}};
}

}  // namespace ms::bindings
