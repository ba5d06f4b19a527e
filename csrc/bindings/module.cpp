// Python module monosem._C: tensors in, checked by array.h, so that it needs no headers of PyTorch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "../cpu/kernels.h"
#include "array.h"

namespace py = pybind11;
using ms::Array;
using ms::Entry;

namespace {

ms::Weights weights(const char* name, const Array& w, int64_t rows, int64_t d) {
  const ms::Dtype dtype = w.weights(name, rows * d);
  return {reinterpret_cast<const void*>(w.data), dtype, d};
}

// What follows from the numbers in a tensor, not from its size.
void require(bool holds, const char* what) {
  if (!holds) throw py::index_error(what);
}

// Entries of n tokens; the caller has seen to it that indices are features (ops/layout.py::checked_code).
ms::Code code(const Array* values, const Array& indices, const Array& offsets, int64_t n) {
  const int64_t* o = offsets.of<int64_t>("offsets", n + 1);
  const int64_t entries = o[n];
  return {values ? values->of<float>("values", entries) : nullptr, indices.of<int32_t>("indices", entries), o, n};
}

// Entries sorted by feature. `tokens`: how many there are, where the kernel reads them; `coefs`: how many entries.
ms::Csc by_feature(const Array& starts, const Array& entries, const Array* tokens, int64_t features, int64_t coefs,
                   int64_t rows) {
  const int64_t* s = starts.of<int64_t>("starts", features + 1);
  bool ascending = s[0] >= 0;
  for (int64_t f = 0; f < features; ++f) ascending &= s[f] <= s[f + 1];
  require(ascending, "starts: not ascending from 0; make it with monosem.ops.csc");
  const int64_t n = s[features];
  const int64_t* e = entries.of<int64_t>("entries", n);
  const int32_t* t = tokens ? tokens->of<int32_t>("tokens", n) : nullptr;
  bool inside = true;
  for (int64_t i = s[0]; i < n; ++i) inside &= e[i] >= 0 && e[i] < coefs;
  require(inside, "entries: not all have a coefficient; make them with monosem.ops.csc of the code that coef is of");
  if (t)
    for (int64_t i = s[0]; i < n; ++i) inside &= t[i] >= 0 && t[i] < rows;
  require(inside, "tokens: not all are rows of u; make them with monosem.ops.csc of the code of these tokens");
  return {s, e, t, features};
}

int64_t up_to(int64_t n, int64_t panel) { return (n + panel - 1) / panel * panel; }

// 32-bit words of a quantised row of d columns.
int64_t words(int bits, int64_t d) {
  if (bits != 8 && bits != 16) throw py::value_error("bits: got " + std::to_string(bits) + "; wanted 8 or 16");
  return (d * bits + 31) / 32;
}

// A tile of a product by PyTorch. In bf16 with an error bound per token.
ms::Tile tile_of(const Array& tile, int64_t rows, int64_t cols, int64_t first, const Array& bias, const Array& error) {
  const ms::Dtype dtype = tile.weights("tile", rows * cols);
  const ms::ErrorBounds by_token = {error.maybe<float>("error", rows), nullptr, nullptr, nullptr, nullptr};
  return {reinterpret_cast<const void*>(tile.data), dtype, rows, cols, cols, first, bias.of<float>("bias", cols), by_token};
}

// The fp32 operands that candidates are rescored with.
struct Exact {
  Array x, w, bias;
  int64_t d;

  // For so many tokens, and all features that there is a bias of.
  ms::Exact of(int64_t rows) const {
    return {x.of<float>("x", rows * d), weights("w", w, bias.count, d), bias.of<float>("bias", 0)};
  }
};

struct ErrorBounds {
  Array token, token_off, token_norm, norm, off;
};

// Tokens × features by integers.
struct IntTile {
  int bits;
  ms::IntTile tile;

  IntTile(int bits_, const Array& x, const Array& w, const Array& token_scale, const Array& scale, const Array& start,
            const Array& bias, const ErrorBounds& m, int64_t rows, int64_t cols, int64_t d)
      : bits(bits_) {
    const int64_t panel = ms::kernels().feature_panel, padded = up_to(rows, ms::kernels().token_panel);
    if (cols % panel) throw py::value_error("cols: wanted whole panels of " + std::to_string(panel));
    const ms::ErrorBounds bounds = {m.token.of<float>("bounds.token", rows),
                                 m.token_off.of<float>("bounds.token_off", rows),
                                 m.token_norm.of<float>("bounds.token_norm", rows),
                                 m.norm.of<float>("bounds.norm", cols), m.off.of<float>("bounds.off", cols)};
    tile = {x.of<int32_t>("x", padded * words(bits, d)), w.of<int32_t>("w", cols * words(bits, d)),
            token_scale.of<float>("token_scale", padded), scale.of<float>("scale", cols),
            start.of<int32_t>("start", cols), bias.of<float>("bias", cols), bounds, rows, cols, d};
  }
};

// Candidates, and how many of them were rescored.
using Counts = std::pair<int64_t, int64_t>;

Counts counts_of(const ms::Rescored& r) { return {r.candidates, r.rescored}; }

// Candidates of one block of tokens while its tiles are computed.
class TopkBlock {
 public:
  TopkBlock(int64_t rows, int64_t k, int64_t capacity)
      : k_(k), capacity_(capacity), upper_(rows * capacity), indices_(rows * capacity), count_(rows),
        limit_(rows), threshold_(rows), flags_(rows) {}

  // `exact`: whether the values of the tiles are.
  void begin(bool exact) {
    seen_ = 0;
    lower_.resize(exact ? 0 : upper_.size());
    std::fill(count_.begin(), count_.end(), 0);
    std::fill(limit_.begin(), limit_.end(), ms::first_limit(k_, capacity_));
    std::fill(threshold_.begin(), threshold_.end(), -std::numeric_limits<float>::infinity());
    std::fill(flags_.begin(), flags_.end(), 0);
  }

  void filter(const Array& tile, int64_t rows, int64_t cols, int64_t first, const Array& bias, const Array& error,
              int threads) {
    has(rows);
    seen_ = std::max(seen_, first + cols);
    ms::kernels().topk_filter(tile_of(tile, rows, cols, first, bias, error), state(), threads);
  }

  Counts rescore(int64_t rows, const Exact& exact, int threads) {
    has(rows);
    exact.bias.has("bias", seen_);
    const ms::Exact e = exact.of(rows);
    return counts_of(ms::kernels().topk_rescore(state(), rows, e.x, e.w, e.bias, threads));
  }

  std::vector<int64_t> overflowed(int64_t rows) const {
    has(rows);
    std::vector<int64_t> found;
    for (int64_t r = 0; r < rows; ++r)
      if (flags_[r] & ms::kOverflow) found.push_back(r);
    return found;
  }

  void finish(int64_t rows, const Array& values, const Array& indices, int threads) {
    has(rows);
    ms::kernels().topk_finish(state(), rows, values.of<float>("values", rows * k_),
                              indices.of<int32_t>("indices", rows * k_), threads);
  }

 private:
  void has(int64_t rows) const {
    require(rows >= 0 && rows <= int64_t(flags_.size()), "rows: more than the block was made for");
  }

  ms::TopkState state() {
    return {upper_.data(), lower_.empty() ? nullptr : lower_.data(), indices_.data(), count_.data(), limit_.data(), threshold_.data(),
            flags_.data(), k_, capacity_};
  }

  int64_t k_, capacity_, seen_ = 0;
  std::vector<float> upper_, lower_;
  std::vector<int32_t> indices_, count_, limit_;
  std::vector<float> threshold_;
  std::vector<uint8_t> flags_;
};

// The entries of a block of tokens that are above 0.
class ThresholdBlock {
 public:
  explicit ThresholdBlock(int64_t rows) : rows_(rows) {}

  void begin(bool /*exact*/) {  // as TopkBlock's: everything above 0 is rescored anyway
    seen_ = 0;
    for (auto& row : rows_) row.clear();
  }

  void filter(const Array& tile, int64_t rows, int64_t cols, int64_t first, const Array& bias, const Array& error,
              int threads) {
    has(rows);
    seen_ = std::max(seen_, first + cols);
    ms::kernels().threshold_filter(tile_of(tile, rows, cols, first, bias, error), rows_, threads);
  }

  Counts integers(const IntTile& t, const Exact& exact, int threads) {
    has(t.tile.rows);
    return counts_of(ms::kernels().int_threshold(t.bits, t.tile, exact.of(t.tile.rows), rows_, threads));
  }

  Counts rescore(int64_t rows, const Exact& exact, int threads) {
    has(rows);
    exact.bias.has("bias", seen_);
    const ms::Exact e = exact.of(rows);
    return counts_of(ms::kernels().threshold_rescore(rows_, rows, e.x, e.w, e.bias, threads));
  }

  int64_t counts(int64_t rows, const Array& out) const {
    has(rows);
    int64_t total = 0;
    int64_t* counts = out.of<int64_t>("counts", rows);
    for (int64_t r = 0; r < rows; ++r) total += counts[r] = int64_t(rows_[r].size());
    return total;
  }

  void finish(int64_t rows, const Array& values, const Array& indices) const {
    has(rows);
    int64_t total = 0;
    for (int64_t r = 0; r < rows; ++r) total += int64_t(rows_[r].size());
    float* v = values.of<float>("values", total);
    int32_t* i = indices.of<int32_t>("indices", total);
    for (int64_t r = 0; r < rows; ++r)
      for (const Entry& e : rows_[r]) *v++ = e.value, *i++ = e.index;
  }

 private:
  void has(int64_t rows) const {
    require(rows >= 0 && rows <= int64_t(rows_.size()), "rows: more than the block was made for");
  }

  int64_t seen_ = 0;
  ms::RowBuffers rows_;
};

ms::AdamStep adam(double lr, double beta1, double beta2, double eps, int64_t step, bool unit, bool lazy) {
  return {lr, beta1, beta2, eps, step, unit, lazy};
}

// `scales`: of int8 moments, those of m for every row and then those of v.
ms::Moments moments(const Array& m, const Array& v, const Array& scales, int64_t rows, int64_t d) {
  if (m.kind == ms::Kind::int8) {
    float* first = scales.of<float>("scales", 2 * rows);
    return {m.of<int8_t>("m", rows * d), v.of<uint8_t>("v", rows * d), ms::Dtype::int8, first, first + rows};
  }
  if (m.kind == ms::Kind::bf16)
    return {m.of<ms::bf16>("m", rows * d), v.of<ms::bf16>("v", rows * d), ms::Dtype::bf16, nullptr, nullptr};
  return {m.of<float>("m", rows * d), v.of<float>("v", rows * d), ms::Dtype::f32, nullptr, nullptr};
}

// Large pages for memory whose rows are read in random order. Best effort (Linux only); results do not depend on it.
void large_pages(uintptr_t data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + uintptr_t(bytes)) / kPage * kPage;
  if (begin >= end) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "monosem's CPU kernels; call them through monosem.ops";
  m.attr("interface") = 3;  // raised when a call changes, so that an older build is refused (ops/backend.py)
  m.def("isa", [] { return std::string(ms::kernels().name); }, "the instruction set in use");
  m.def("isas", [] { return ms::available_isas(); }, "the instruction sets that this build and processor have");

  const auto nogil = py::call_guard<py::gil_scoped_release>();
  py::class_<ErrorBounds>(m, "ErrorBounds")
      .def(py::init([](const Array& token, const Array& token_off, const Array& token_norm, const Array& norm,
                       const Array& off) { return ErrorBounds{token, token_off, token_norm, norm, off}; }));
  py::class_<IntTile>(m, "IntTile")
      .def(py::init<int, const Array&, const Array&, const Array&, const Array&, const Array&, const Array&,
                    const ErrorBounds&, int64_t, int64_t, int64_t>());
  py::class_<Exact>(m, "Exact").def(py::init([](const Array& x, const Array& w, const Array& bias, int64_t d) {
    return Exact{x, w, bias, d};
  }));
  m.def("int_topk",
        [](const IntTile& t, const Exact& exact, int64_t k, int64_t capacity, const Array& values,
           const Array& indices, const Array& flags, int threads) {
          const int64_t rows = t.tile.rows;
          require(k > 0 && capacity >= k + 4 * ms::kWidest, "capacity: wanted at least k and four vectors more");
          const ms::TopkAnswer out{values.of<float>("values", rows * k), indices.of<int32_t>("indices", rows * k),
                                   flags.of<uint8_t>("flags", rows), k, capacity};
          return counts_of(ms::kernels().int_topk(t.bits, t.tile, exact.of(rows), out, threads));
        }, nogil);
  m.attr("spare_slots") = ms::kWidest;
  m.def("panels", [] { return std::make_pair(ms::kernels().token_panel, ms::kernels().feature_panel); },
        "tokens and features per panel of quantised rows");
  m.def("fast_int8", [] { return ms::kernels().fast_int8; },
        "whether int8 products are faster here than int16");
  m.def("quantize",
        [](int bits, const Array& rows, int64_t n, int64_t d, bool tokens, const Array& packed, const Array& scale,
           const Array& norm, const Array& off, const Array& start, int threads) {
          const int64_t padded = up_to(n, tokens ? ms::kernels().token_panel : ms::kernels().feature_panel);
          const ms::QuantizedRows to{packed.of<int32_t>("packed", padded * words(bits, d)),
                                  scale.of<float>("scale", padded), norm.of<float>("norm", padded),
                                  off.of<float>("off", padded), start.of<int32_t>("start", padded)};
          ms::kernels().quantize(bits, weights("rows", rows, n, d), n, tokens, to, threads);
        }, nogil);
  m.def("int_gemm_repeat",
        [](int bits, const Array& x, const Array& w, int64_t d, int64_t times, int threads) {
          const auto* tokens = x.of<int32_t>("x", words(bits, d) * ms::kernels().token_panel);
          const auto* features = w.of<int32_t>("w", words(bits, d) * ms::kernels().feature_panel);
          ms::kernels().int_gemm_repeat(bits, reinterpret_cast<const uint32_t*>(tokens),
                                     reinterpret_cast<const uint32_t*>(features), d, times, threads);
        }, nogil);
  m.def("largest_norms",
        [](const Array& rows, int64_t n, int64_t d, int threads) {
          const ms::LargestNorms largest_norms = ms::kernels().largest_norms(weights("rows", rows, n, d), n, threads);
          return std::make_pair(largest_norms.norm, largest_norms.off);
        }, nogil, "the largest norm of a row, and of a row's rounding error in bf16");
  py::class_<TopkBlock>(m, "TopkBlock")
      .def(py::init([](int64_t rows, int64_t k, int64_t capacity) {
        require(rows >= 0 && k > 0 && capacity >= k + 4 * ms::kWidest,
                "capacity: wanted at least k and four vectors more");
        return TopkBlock(rows, k, capacity);
      }))
      .def("begin", &TopkBlock::begin)
      .def("filter", &TopkBlock::filter, nogil)
      .def("rescore", &TopkBlock::rescore, nogil)
      .def("overflowed", &TopkBlock::overflowed)
      .def("finish", &TopkBlock::finish, nogil);
  py::class_<ThresholdBlock>(m, "ThresholdBlock")
      .def(py::init<int64_t>())
      .def("begin", &ThresholdBlock::begin)
      .def("filter", &ThresholdBlock::filter, nogil)
      .def("integers", &ThresholdBlock::integers, nogil)
      .def("rescore", &ThresholdBlock::rescore, nogil)
      .def("counts", &ThresholdBlock::counts)
      .def("finish", &ThresholdBlock::finish, nogil);

  // rows of w: as many as there are; that the indices are among them was seen to.
  m.def("sparse_decode",
        [](const Array& v, const Array& i, const Array& o, int64_t n, const Array& w, int64_t features, int64_t d,
           const Array& b, const Array& out, int threads) {
          ms::kernels().sparse_decode(code(&v, i, o, n), weights("w", w, features, d), b.of<float>("b", d),
                                      out.of<float>("out", n * d), threads);
        }, nogil);
  m.def("gather_dot",
        [](const Array& i, const Array& o, int64_t n, const Array& w, int64_t features, int64_t d, const Array& g,
           double scale, const Array& out, int threads) {
          const ms::Code c = code(nullptr, i, o, n);
          ms::kernels().gather_dot(c, weights("w", w, features, d), g.of<float>("g", n * d), float(scale),
                                   out.of<float>("out", c.offsets[n]), threads);
        }, nogil);
  m.def("decode_loss",
        [](const Array& v, const Array& i, const Array& o, int64_t n, const Array& w, int64_t features, int64_t d,
           const Array& b, const Array& x, const Array& loss, const Array& residual, const Array& slopes, int threads) {
          const ms::Code c = code(&v, i, o, n);
          ms::kernels().decode_loss(c, weights("w", w, features, d), b.of<float>("b", d), x.of<float>("x", n * d),
                                    loss.of<float>("loss", n), residual.of<float>("residual", n * d),
                                    slopes.of<float>("slopes", c.offsets[n]), threads);
        }, nogil);
  m.def("csc",
        [](const Array& i, const Array& o, int64_t n, int64_t features, const Array& starts, const Array& entries,
           const Array& tokens, int threads) {
          const ms::Code c = code(nullptr, i, o, n);
          ms::csc(c.indices, c.offsets, n, features, starts.of<int64_t>("starts", features + 1),
                  entries.of<int64_t>("entries", c.offsets[n]), tokens.of<int32_t>("tokens", c.offsets[n]), threads);
        }, nogil);
  m.def("row_grad",
        [](const Array& s, const Array& e, const Array& t, int64_t features, const Array& coef, const Array& u,
           int64_t rows, int64_t d, const Array& out, int threads) {
          ms::kernels().row_grad(by_feature(s, e, &t, features, coef.count, rows), coef.of<float>("coef", 0),
                                 u.of<float>("u", rows * d), d, out.of<float>("out", features * d), threads);
        }, nogil);
  m.def("feature_sum",
        [](const Array& s, const Array& e, int64_t features, const Array& coef, const Array& out, int threads) {
          ms::kernels().feature_sum(by_feature(s, e, nullptr, features, coef.count, 0), coef.of<float>("coef", 0),
                                    out.of<float>("out", features), threads);
        }, nogil);
  m.def("row_adam",
        [](const Array& w, const Array& mom, const Array& v, const Array& scales, const Array& g, int64_t rows,
           int64_t d, double lr, double b1, double b2, double eps, int64_t step, bool unit, bool lazy, int threads) {
          ms::kernels().row_adam(w.of<float>("w", rows * d), moments(mom, v, scales, rows, d),
                                 g.of<float>("g", rows * d), rows, d, adam(lr, b1, b2, eps, step, unit, lazy), threads);
        }, nogil);
  m.def("row_grad_adam",
        [](const Array& w, const Array& mom, const Array& v, const Array& scales, const Array& s, const Array& e,
           const Array& t, int64_t features, const Array& coef, const Array& u, int64_t rows, int64_t d, double scale,
           double lr, double b1, double b2, double eps, int64_t step, bool unit, bool lazy, int threads) {
          ms::kernels().row_grad_adam(w.of<float>("w", features * d), moments(mom, v, scales, features, d),
                                      by_feature(s, e, &t, features, coef.count, rows), coef.of<float>("coef", 0),
                                      u.of<float>("u", rows * d), d, float(scale),
                                      adam(lr, b1, b2, eps, step, unit, lazy), threads);
        }, nogil);
  m.def("large_pages", &large_pages, nogil);
  m.def("resample",
        [](const Array& w_enc, const Array& w_dec, const Array& b_enc, int64_t features, int64_t d,
           const Array& chosen, int64_t n, const Array& inputs, const Array& alive, double factor, int threads) {
          const int64_t* c = chosen.of<int64_t>("features", n);
          for (int64_t i = 0; i < n; ++i) require(c[i] >= 0 && c[i] < features, "features: not all are rows of w_dec");
          ms::kernels().resample(w_enc.of<float>("w_enc", features * d), w_dec.of<float>("w_dec", features * d),
                                 b_enc.of<float>("b_enc", features), features, d, c, n,
                                 inputs.of<float>("inputs", n * d), alive.of<uint8_t>("alive", features), float(factor),
                                 threads);
        }, nogil);
}
