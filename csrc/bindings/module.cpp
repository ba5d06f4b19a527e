// Python module monosem._C: raw addresses and sizes as integers, so that it needs no headers of PyTorch.
// The Python side (ops/cpu_*.py) checks shapes, dtypes and layout before it calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <limits>
#include <string>

#include "../cpu/kernels.h"

namespace py = pybind11;
using ms::Entry;
using Address = uintptr_t;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

ms::Weights weights(Address data, int dtype, int64_t d) { return {at<const void>(data), ms::Dtype(dtype), d}; }

ms::Code code(Address values, Address indices, Address offsets, int64_t n) {
  return {at<const float>(values), at<const int32_t>(indices), at<const int64_t>(offsets), n};
}

ms::Csc csc_view(Address starts, Address entries, Address tokens, int64_t features) {
  return {at<const int64_t>(starts), at<const int64_t>(entries), at<const int32_t>(tokens), features};
}

// How far values may be off, for products in bf16: by token.
ms::Margins by_token(Address margin) { return {at<const float>(margin), nullptr, nullptr, nullptr, nullptr}; }

// Survivors of one block of tokens while the tiles pass by.
class TopkBlock {
 public:
  TopkBlock(int64_t rows, int64_t k, int64_t capacity)
      : k_(k), capacity_(capacity), values_(rows * capacity), indices_(rows * capacity), count_(rows),
        limit_(rows), bar_(rows), flags_(rows) {}

  // `exact`: whether the values that come are.
  void begin(bool exact) {
    least_.resize(exact ? 0 : values_.size());
    std::fill(count_.begin(), count_.end(), 0);
    std::fill(limit_.begin(), limit_.end(), ms::first_limit(k_, capacity_));
    std::fill(bar_.begin(), bar_.end(), -std::numeric_limits<float>::infinity());
    std::fill(flags_.begin(), flags_.end(), 0);
  }

  void filter(Address tile, int dtype, int64_t rows, int64_t cols, int64_t first, Address bias, Address margin,
              int threads) {
    ms::kernels().topk_filter({at<const void>(tile), ms::Dtype(dtype), rows, cols, cols, first, at<const float>(bias),
                               by_token(margin)},
                              state(), threads);
  }

  void rescore(int64_t rows, Address x, Address w, int dtype, int64_t d, Address bias, int threads) {
    ms::kernels().topk_rescore(state(), rows, at<const float>(x), weights(w, dtype, d), at<const float>(bias), threads);
  }

  std::vector<int64_t> overflowed(int64_t rows) const {
    std::vector<int64_t> found;
    for (int64_t r = 0; r < rows; ++r)
      if (flags_[r] & ms::kOverflow) found.push_back(r);
    return found;
  }

  void finish(int64_t rows, Address values, Address indices, int threads) {
    ms::kernels().topk_finish(state(), rows, at<float>(values), at<int32_t>(indices), threads);
  }

 private:
  ms::TopkState state() {
    return {values_.data(), least_.empty() ? nullptr : least_.data(), indices_.data(), count_.data(), limit_.data(), bar_.data(),
            flags_.data(), k_, capacity_};
  }

  int64_t k_, capacity_;
  std::vector<float> values_, least_;
  std::vector<int32_t> indices_, count_, limit_;
  std::vector<float> bar_;
  std::vector<uint8_t> flags_;
};

// What a block of tokens has above the threshold.
class ThresholdBlock {
 public:
  explicit ThresholdBlock(int64_t rows) : rows_(rows) {}

  void begin(bool /*exact*/) {  // as TopkBlock's: everything above 0 is scored again anyway
    for (auto& row : rows_) row.clear();
  }

  void filter(Address tile, int dtype, int64_t rows, int64_t cols, int64_t first, Address bias, Address margin,
              int threads) {
    ms::kernels().threshold_filter({at<const void>(tile), ms::Dtype(dtype), rows, cols, cols, first,
                                    at<const float>(bias), by_token(margin)},
                                   rows_, threads);
  }

  void whole(int bits, const ms::WholeTile& tile, const ms::Exact& exact, int threads) {
    ms::kernels().whole_threshold(bits, tile, exact, rows_, threads);
  }

  void rescore(int64_t rows, Address x, Address w, int dtype, int64_t d, Address bias, int threads) {
    ms::kernels().threshold_rescore(rows_, rows, at<const float>(x), weights(w, dtype, d), at<const float>(bias),
                                    threads);
  }

  int64_t counts(int64_t rows, Address out) const {
    int64_t total = 0;
    for (int64_t r = 0; r < rows; ++r) total += at<int64_t>(out)[r] = int64_t(rows_[r].size());
    return total;
  }

  void finish(int64_t rows, Address values, Address indices) const {
    float* v = at<float>(values);
    int32_t* i = at<int32_t>(indices);
    for (int64_t r = 0; r < rows; ++r)
      for (const Entry& e : rows_[r]) *v++ = e.value, *i++ = e.index;
  }

 private:
  ms::RowBuffers rows_;
};

ms::Adam adam(double lr, double beta1, double beta2, double eps, int64_t step, bool unit, bool lazy) {
  return {lr, beta1, beta2, eps, step, unit, lazy};
}

// `scales`: of int8 moments, those of m for every row and then those of v.
ms::Moments moments(Address m, Address v, int dtype, Address scales, int64_t rows) {
  float* first = at<float>(scales);
  return {at<void>(m), at<void>(v), ms::Dtype(dtype), first, first ? first + rows : nullptr};
}

// Asks for large pages under memory that is read row by row in no order; a wish, of which no result depends.
void large_pages(Address data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + uintptr_t(bytes)) / kPage * kPage;
  if (begin >= end) return;
  madvise(at<void>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "monosem's CPU kernels; call them through monosem.ops";
  m.def("isa", [] { return std::string(ms::kernels().name); }, "the instruction set in use");
  m.def("isas", [] { return ms::available_isas(); }, "the instruction sets that this build and processor have");

  const auto nogil = py::call_guard<py::gil_scoped_release>();
  py::class_<ms::Margins>(m, "Margins")
      .def(py::init([](Address token, Address token_off, Address token_norm, Address norm, Address off) {
        return ms::Margins{at<const float>(token), at<const float>(token_off), at<const float>(token_norm),
                           at<const float>(norm), at<const float>(off)};
      }));
  py::class_<ms::WholeTile>(m, "WholeTile")
      .def(py::init([](Address x, Address w, Address token_scale, Address scale, Address start, Address bias,
                       const ms::Margins& margins, int64_t rows, int64_t cols, int64_t d) {
        return ms::WholeTile{at<const void>(x), at<const void>(w), at<const float>(token_scale),
                             at<const float>(scale), at<const int32_t>(start), at<const float>(bias), margins, rows,
                             cols, d};
      }));
  py::class_<ms::Exact>(m, "Exact").def(py::init([](Address x, Address w, int dtype, int64_t d, Address bias) {
    return ms::Exact{at<const float>(x), weights(w, dtype, d), at<const float>(bias)};
  }));
  m.def("whole_topk",
        [](int bits, const ms::WholeTile& tile, const ms::Exact& exact, int64_t k, int64_t capacity, Address values,
           Address indices, Address flags, int threads) {
          const ms::TopkAnswer out{at<float>(values), at<int32_t>(indices), at<uint8_t>(flags), k, capacity};
          ms::kernels().whole_topk(bits, tile, exact, out, threads);
        }, nogil);
  m.attr("spare_slots") = ms::kWidest;
  m.def("panels", [] { return std::make_pair(ms::kernels().token_panel, ms::kernels().feature_panel); },
        "tokens and features of a panel of packed rows");
  m.def("fast_int8", [] { return ms::kernels().fast_int8; },
        "whether products in 8-bit whole numbers are faster here than in 16-bit ones");
  m.def("whole_pack",
        [](int bits, Address rows, int dtype, int64_t n, int64_t d, bool tokens, Address packed, Address scale,
           Address norm, Address off, Address start, int threads) {
          const ms::PackedRows to{at<void>(packed), at<float>(scale), at<float>(norm), at<float>(off),
                                  at<int32_t>(start)};
          ms::kernels().whole_pack(bits, weights(rows, dtype, d), n, tokens, to, threads);
        }, nogil);
  m.def("whole_repeat",
        [](int bits, Address x, Address w, int64_t d, int64_t times, int threads) {
          ms::kernels().whole_repeat(bits, at<const uint32_t>(x), at<const uint32_t>(w), d, times, threads);
        }, nogil);
  m.def("longest_rows",
        [](Address rows, int dtype, int64_t n, int64_t d, int threads) {
          const ms::Longest longest = ms::kernels().longest_rows(weights(rows, dtype, d), n, threads);
          return std::make_pair(longest.norm, longest.off);
        }, nogil, "the largest norm of a row, and of what rounding it to bf16 takes off");
  py::class_<TopkBlock>(m, "TopkBlock")
      .def(py::init<int64_t, int64_t, int64_t>())
      .def("begin", &TopkBlock::begin)
      .def("filter", &TopkBlock::filter, nogil)
      .def("rescore", &TopkBlock::rescore, nogil)
      .def("overflowed", &TopkBlock::overflowed)
      .def("finish", &TopkBlock::finish, nogil);
  py::class_<ThresholdBlock>(m, "ThresholdBlock")
      .def(py::init<int64_t>())
      .def("begin", &ThresholdBlock::begin)
      .def("filter", &ThresholdBlock::filter, nogil)
      .def("whole", &ThresholdBlock::whole, nogil)
      .def("rescore", &ThresholdBlock::rescore, nogil)
      .def("counts", &ThresholdBlock::counts)
      .def("finish", &ThresholdBlock::finish, nogil);

  m.def("sparse_decode",
        [](Address v, Address i, Address o, int64_t n, Address w, int dtype, int64_t d, Address b, Address out,
           int threads) {
          ms::kernels().sparse_decode(code(v, i, o, n), weights(w, dtype, d), at<const float>(b), at<float>(out),
                                      threads);
        }, nogil);
  m.def("gather_dot",
        [](Address i, Address o, int64_t n, Address w, int dtype, int64_t d, Address g, double scale, Address out,
           int threads) {
          ms::kernels().gather_dot(code(0, i, o, n), weights(w, dtype, d), at<const float>(g), float(scale),
                                   at<float>(out), threads);
        }, nogil);
  m.def("decode_loss",
        [](Address v, Address i, Address o, int64_t n, Address w, int dtype, int64_t d, Address b, Address x,
           Address loss, Address residual, Address slopes, int threads) {
          ms::kernels().decode_loss(code(v, i, o, n), weights(w, dtype, d), at<const float>(b), at<const float>(x),
                                    at<float>(loss), at<float>(residual), at<float>(slopes), threads);
        }, nogil);
  m.def("csc",
        [](Address i, Address o, int64_t n, int64_t features, Address starts, Address entries, Address tokens,
           int threads) {
          ms::csc(at<const int32_t>(i), at<const int64_t>(o), n, features, at<int64_t>(starts), at<int64_t>(entries),
                  at<int32_t>(tokens), threads);
        }, nogil);
  m.def("row_grad",
        [](Address s, Address e, Address t, int64_t features, Address coef, Address u, int64_t d, Address out,
           int threads) {
          ms::kernels().row_grad(csc_view(s, e, t, features), at<const float>(coef), at<const float>(u), d,
                                 at<float>(out), threads);
        }, nogil);
  m.def("feature_sum",
        [](Address s, Address e, int64_t features, Address coef, Address out, int threads) {
          ms::kernels().feature_sum(csc_view(s, e, 0, features), at<const float>(coef), at<float>(out), threads);
        }, nogil);
  m.def("row_adam",
        [](Address w, Address mom, Address v, int state, Address scales, Address g, int64_t rows, int64_t d, double lr,
           double b1, double b2, double eps, int64_t step, bool unit, bool lazy, int threads) {
          ms::kernels().row_adam(at<float>(w), moments(mom, v, state, scales, rows), at<const float>(g), rows, d,
                                 adam(lr, b1, b2, eps, step, unit, lazy), threads);
        }, nogil);
  m.def("row_grad_adam",
        [](Address w, Address mom, Address v, int state, Address scales, Address s, Address e, Address t,
           int64_t features, Address coef, Address u, int64_t d, double scale, double lr, double b1, double b2,
           double eps, int64_t step, bool unit, bool lazy, int threads) {
          ms::kernels().row_grad_adam(at<float>(w), moments(mom, v, state, scales, features),
                                      csc_view(s, e, t, features), at<const float>(coef), at<const float>(u), d,
                                      float(scale), adam(lr, b1, b2, eps, step, unit, lazy), threads);
        }, nogil);
  m.def("large_pages", &large_pages, nogil);
  m.def("resample",
        [](Address w_enc, Address w_dec, Address b_enc, int64_t features, int64_t d, Address chosen, int64_t n,
           Address inputs, Address alive, double factor, int threads) {
          ms::kernels().resample(at<float>(w_enc), at<float>(w_dec), at<float>(b_enc), features, d,
                                 at<const int64_t>(chosen), n, at<const float>(inputs), at<const uint8_t>(alive),
                                 float(factor), threads);
        }, nogil);
}
