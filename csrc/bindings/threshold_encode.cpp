// Threshold: the entries of a block of tokens that are above 0, or above their feature's threshold.
#include <algorithm>

#include "../cpu/kernels.h"
#include "encoder.h"
#include "register.h"

namespace ms::bindings {
namespace {

class ThresholdBlock {
 public:
  explicit ThresholdBlock(int64_t rows) : rows_(rows) {}

  void begin(bool /*exact*/) {  // as TopkBlock's: everything above 0 is rescored anyway
    seen_ = 0;
    for (auto& row : rows_) row.clear();
  }

  void filter(const TensorView& tile, int64_t first, const TensorView& bias, const TensorView& error, int threads) {
    const Tile t = tile_of(tile, first, bias, error);
    has(t.rows);
    seen_ = std::max(seen_, first + t.cols);
    kernels().threshold_filter(t, rows_, threads);
  }

  Counts integers(const IntTileView& t, const ExactView& exact, int threads) {
    has(t.tile.rows);
    return counts_of(kernels().int_threshold(t.product, t.tile, exact.of(t.tile.rows, 0), rows_, threads));
  }

  Counts rescore(int64_t rows, const ExactView& exact, int threads) {
    has(rows);
    return counts_of(kernels().threshold_rescore(rows_, rows, exact.of(rows, seen_), threads));
  }

  // Writes the entries of each token, and returns their sum.
  int64_t counts(int64_t rows, const TensorView& out) const {
    has(rows);
    int64_t total = 0;
    int64_t* counts = out.at_least<int64_t>("counts", rows);
    for (int64_t r = 0; r < rows; ++r) total += counts[r] = int64_t(rows_[r].size());
    return total;
  }

  void finish(int64_t rows, const TensorView& values, const TensorView& indices) const {
    has(rows);
    int64_t total = 0;
    for (int64_t r = 0; r < rows; ++r) total += int64_t(rows_[r].size());
    float* v = values.of<float>("values", {total});
    int32_t* i = indices.of<int32_t>("indices", {total});
    for (int64_t r = 0; r < rows; ++r)
      for (const Entry& e : rows_[r]) *v++ = e.value, *i++ = e.index;
  }

 private:
  void has(int64_t rows) const {
    require(rows >= 0 && rows <= int64_t(rows_.size()), "rows: more than the block was made for");
  }

  int64_t seen_ = 0;
  RowBuffers rows_;
};

}  // namespace

void register_threshold_encode(pybind11::module_& m) {
  namespace py = pybind11;
  py::class_<ThresholdBlock>(m, "ThresholdBlock")
      .def(py::init<int64_t>(), py::arg("rows"))
      .def("begin", &ThresholdBlock::begin, py::arg("exact"))
      .def("filter", &ThresholdBlock::filter, py::arg("tile"), py::arg("first"), py::arg("bias"), py::arg("error"),
           py::arg("threads"), NoGil())
      .def("integers", &ThresholdBlock::integers, py::arg("tile"), py::arg("exact"), py::arg("threads"), NoGil())
      .def("rescore", &ThresholdBlock::rescore, py::arg("rows"), py::arg("exact"), py::arg("threads"), NoGil())
      .def("counts", &ThresholdBlock::counts, py::arg("rows"), py::arg("out"))
      .def("finish", &ThresholdBlock::finish, py::arg("rows"), py::arg("values"), py::arg("indices"), NoGil());
}

}  // namespace ms::bindings
