// TopK: the candidates of a block of tokens, and their selection.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "../cpu/kernels.h"
#include "encoder.h"
#include "register.h"

namespace ms::bindings {
namespace {

void check_capacity(int64_t k, int64_t capacity) {
  require(k > 0 && capacity >= k + 4 * kWidest, "capacity: wanted at least k and four vectors more");
}

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
    std::fill(limit_.begin(), limit_.end(), first_limit(k_, capacity_));
    std::fill(threshold_.begin(), threshold_.end(), -std::numeric_limits<float>::infinity());
    std::fill(flags_.begin(), flags_.end(), 0);
  }

  void filter(const TensorView& tile, int64_t first, const TensorView& bias, const TensorView& error, int threads) {
    const Tile t = tile_of(tile, first, bias, error);
    has(t.rows);
    seen_ = std::max(seen_, first + t.cols);
    kernels().topk_filter(t, state(), threads);
  }

  Counts rescore(int64_t rows, const ExactView& exact, int threads) {
    has(rows);
    const Exact e = exact.of(rows, seen_);
    return counts_of(kernels().topk_rescore(state(), rows, e.x, e.w, e.bias, threads));
  }

  std::vector<int64_t> overflowed(int64_t rows) const {
    has(rows);
    std::vector<int64_t> tokens;
    for (int64_t r = 0; r < rows; ++r)
      if (flags_[r] & kOverflow) tokens.push_back(r);
    return tokens;
  }

  void finish(int64_t rows, const TensorView& values, const TensorView& indices, int threads) {
    has(rows);
    kernels().topk_finish(state(), rows, values.of<float>("values", {rows, k_}),
                          indices.of<int32_t>("indices", {rows, k_}), threads);
  }

 private:
  void has(int64_t rows) const {
    require(rows >= 0 && rows <= int64_t(flags_.size()), "rows: more than the block was made for");
  }

  TopkState state() {
    return {
        .upper = upper_.data(),
        .lower = lower_.empty() ? nullptr : lower_.data(),
        .indices = indices_.data(),
        .count = count_.data(),
        .limit = limit_.data(),
        .threshold = threshold_.data(),
        .flags = flags_.data(),
        .k = k_,
        .capacity = capacity_,
    };
  }

  int64_t k_, capacity_, seen_ = 0;
  std::vector<float> upper_, lower_;
  std::vector<int32_t> indices_, count_, limit_;
  std::vector<float> threshold_;
  std::vector<uint8_t> flags_;
};

Counts int_topk(const IntTileView& t, const ExactView& exact, int64_t k, int64_t capacity, const TensorView& values,
                const TensorView& indices, const TensorView& flags, int threads) {
  const int64_t rows = t.tile.rows;
  check_capacity(k, capacity);
  const TopkAnswer out{values.of<float>("values", {rows, k}), indices.of<int32_t>("indices", {rows, k}),
                       flags.of<uint8_t>("flags", {rows}), k, capacity};
  return counts_of(kernels().int_topk(t.product, t.tile, exact.of(rows, 0), out, threads));
}

}  // namespace

void register_topk_encode(pybind11::module_& m) {
  namespace py = pybind11;
  m.attr("spare_slots") = kWidest;
  py::class_<TopkBlock>(m, "TopkBlock")
      .def(py::init([](int64_t rows, int64_t k, int64_t capacity) {
             require(rows >= 0, "rows: wanted at least 0");
             check_capacity(k, capacity);
             return TopkBlock(rows, k, capacity);
           }),
           py::arg("rows"), py::arg("k"), py::arg("capacity"))
      .def("begin", &TopkBlock::begin, py::arg("exact"))
      .def("filter", &TopkBlock::filter, py::arg("tile"), py::arg("first"), py::arg("bias"), py::arg("error"),
           py::arg("threads"), NoGil())
      .def("rescore", &TopkBlock::rescore, py::arg("rows"), py::arg("exact"), py::arg("threads"), NoGil())
      .def("overflowed", &TopkBlock::overflowed, py::arg("rows"))
      .def("finish", &TopkBlock::finish, py::arg("rows"), py::arg("values"), py::arg("indices"), py::arg("threads"),
           NoGil());
  m.def("int_topk", &int_topk, py::kw_only(), py::arg("tile"), py::arg("exact"), py::arg("k"), py::arg("capacity"),
        py::arg("values"), py::arg("indices"), py::arg("flags"), py::arg("threads"), NoGil());
}

}  // namespace ms::bindings
