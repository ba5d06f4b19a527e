// Quantised rows, their error bounds, and the operands of the encoder's product.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "../cpu/kernels.h"
#include "encoder.h"
#include "register.h"

namespace ms::bindings {
namespace {

// Numbers 0 to n − 1 by their scores, 0 or more: the largest first, where a power of two lies between them; otherwise the
// lowest number. Whatever the scores are, each number is there once.
void largest_first(const TensorView& scores, const TensorView& order) {
  const int64_t n = scores.count();
  const float* score = scores.of<float>("scores", {n});
  int32_t* number = order.of<int32_t>("order", {n});
  const auto exponent = [&](int64_t i) {
    uint32_t bits;
    std::memcpy(&bits, score + i, sizeof bits);
    return bits >> 31 ? 0 : bits >> 23;
  };
  int64_t place[256] = {};
  for (int64_t i = 0; i < n; ++i) ++place[exponent(i)];
  int64_t before = 0;
  for (int e = 255; e >= 0; --e) before += std::exchange(place[e], before);
  for (int64_t i = 0; i < n; ++i) number[place[exponent(i)]++] = int32_t(i);
}

// Numbers below n, `count` of them.
const int32_t* numbers(const char* name, const TensorView& t, int64_t count, int64_t n) {
  const int32_t* number = t.at_least<int32_t>(name, count);
  uint32_t highest = 0;
  for (int64_t i = 0; i < count; ++i) highest = std::max(highest, uint32_t(number[i]));
  if (count && highest >= n)
    throw pybind11::index_error(std::string(name) + ": wanted numbers from 0 to " + std::to_string(n - 1));
  return number;
}

void quantize(const std::string& product_name, const TensorView& rows, bool tokens, const TensorView& packed,
              const TensorView& scale, const TensorView& norm, const TensorView& off, const TensorView& start,
              const TensorView& offset, const TensorView& order, const TensorView& usual, const TensorView& count,
              const TensorView& along, int threads) {
  const IntProduct product = product_named(product_name);
  const Weights weights = rows.weights("rows");
  if (offset && product != IntProduct::int8) throw pybind11::value_error("offset: only rows in int8 are dithered");
  if (usual ? product != IntProduct::int16 || !(tokens ? count : along) : count || along)
    throw pybind11::value_error("usual: wanted rows in int16 with count of tokens or along of features, or none of these");
  const Panels panels = kernels().panels(product, weights.d);
  const int64_t n = rows.rows("rows"), padded = up_to(n, tokens ? panels.tokens : panels.features);
  const int64_t words = padded * panels.words;
  const bool lists = tokens && usual;
  if (lists && weights.d > kWidestList)
    throw pybind11::value_error("rows: wanted at most " + std::to_string(kWidestList) + " columns for lists");
  void* const data = lists ? static_cast<void*>(packed.at_least<int64_t>("packed", words))
                           : packed.at_least<int32_t>("packed", words);
  const QuantizedRows to{data,
                         scale.at_least<float>("scale", padded), norm.at_least<float>("norm", padded),
                         off.at_least<float>("off", padded), start.at_least<int32_t>("start", padded),
                         offset ? offset.at_least<float>("offset", padded) : nullptr,
                         order ? numbers("order", order, n, n) : nullptr,
                         usual ? usual.of<float>("usual", {weights.d}) : nullptr,
                         lists ? count.at_least<int32_t>("count", padded) : nullptr,
                         usual && !tokens ? along.at_least<float>("along", padded) : nullptr};
  kernels().quantize(product, weights, n, tokens, to, threads);
}

float usual_values(const TensorView& x, const TensorView& usual) {
  const int64_t rows = x.rows("x"), d = usual.count();
  return kernels().usual_values(x.of<float>("x", {rows, d}), rows, d, usual.of<float>("usual", {d}));
}

std::pair<float, float> largest_norms(const TensorView& rows, int threads) {
  const Weights weights = rows.weights("rows");
  const LargestNorms largest = kernels().largest_norms(weights, rows.rows("rows"), threads);
  return {largest.norm, largest.off};
}

IntTileView int_tile(const std::string& product_name, const TensorView& x, const TensorView& w,
                     const TensorView& count, const TensorView& token_scale, const TensorView& token_offset,
                     const TensorView& scale, const TensorView& start, const TensorView& bias,
                     const TensorView& features, const ErrorBoundsView& bounds, int64_t rows, int64_t cols, int64_t d) {
  const IntProduct product = product_named(product_name);
  const Panels panels = kernels().panels(product, d);
  const int64_t padded = up_to(rows, panels.tokens);
  if (cols % panels.features) throw pybind11::value_error("cols: wanted whole panels of " + std::to_string(panels.features));
  if (count && product != IntProduct::int16)
    throw pybind11::value_error("count: only tokens in int16 stand in lists");
  return {product,
          {count ? static_cast<const void*>(x.at_least<int64_t>("x", padded * panels.words))
                 : x.at_least<int32_t>("x", padded * panels.words),
           w.at_least<int32_t>("w", cols * panels.words),
           count ? numbers("count", count, padded, panels.words + 1) : nullptr,
           token_scale.at_least<float>("token_scale", padded), token_offset.at_least<float>("token_offset", padded),
           scale.at_least<float>("scale", cols), start.at_least<int32_t>("start", cols), bias.at_least<float>("bias", cols),
           numbers("features", features, cols, cols), bounds.of(padded, cols), rows, cols, d}};
}

}  // namespace

void register_quantize(pybind11::module_& m) {
  namespace py = pybind11;
  py::class_<ErrorBoundsView>(m, "ErrorBounds")
      .def(py::init([](const TensorView& token, const TensorView& token_off, const TensorView& token_norm,
                       const TensorView& norm, const TensorView& off) {
             return ErrorBoundsView{token, token_off, token_norm, norm, off};
           }),
           py::kw_only(), py::arg("token"), py::arg("token_off"), py::arg("token_norm"), py::arg("norm"),
           py::arg("off"));
  py::class_<ExactView>(m, "Exact", "the fp32 operands that candidates are rescored with")
      .def(py::init([](const TensorView& x, const TensorView& w, const TensorView& bias, const TensorView& threshold) {
             return ExactView{x, w, bias, threshold};
           }),
           py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("threshold"));
  py::class_<IntTileView>(m, "IntTile", "tokens × features by integers")
      .def(py::init(&int_tile), py::kw_only(), py::arg("product"), py::arg("x"), py::arg("w"), py::arg("count"),
           py::arg("token_scale"), py::arg("token_offset"), py::arg("scale"), py::arg("start"), py::arg("bias"),
           py::arg("features"), py::arg("bounds"), py::arg("rows"), py::arg("cols"), py::arg("d"));
  m.def("quantize", &quantize, py::kw_only(), py::arg("product"), py::arg("rows"), py::arg("tokens"),
        py::arg("packed"), py::arg("scale"), py::arg("norm"), py::arg("off"), py::arg("start"), py::arg("offset"),
        py::arg("order"), py::arg("usual"), py::arg("count"), py::arg("along"), py::arg("threads"), NoGil());
  m.def("sparse_below", [](int64_t d) { return kernels().sparse_below(d); }, py::arg("d"),
        "the share of columns that differ below which tokens are multiplied as lists; 0: never");
  m.def("usual_values", &usual_values, py::arg("x"), py::arg("usual"), NoGil(),
        "the value that each column usually has, and the share of entries that differ from it");
  m.def("largest_first", &largest_first, py::kw_only(), py::arg("scores"), py::arg("order"), NoGil());
  m.def("largest_norms", &largest_norms, py::arg("rows"), py::arg("threads"), NoGil(),
        "the largest norm of a row, and of a row's rounding error in bf16");
}

}  // namespace ms::bindings
