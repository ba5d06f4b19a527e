// TopK and threshold by the integer product. While one block of tokens is multiplied, the candidates of the previous block
// are rescored: the product does not use the memory bandwidth that their rows need.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <mutex>
#include <numeric>
#include <vector>

#include "../core/entry.h"
#include "../core/parallel.h"
#include "int_gemm-inl.h"
#include "kernels.h"
#include "quantize-inl.h"
#include "rescore-inl.h"
#include "select-inl.h"
#include "simd-inl.h"
#include "target.h"
#include "threshold_encode-inl.h"
#include "topk_encode-inl.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

// Buffers for the candidates of a block of rows.
struct Scratch {
  std::vector<float> upper, lower, threshold;
  std::vector<int32_t> indices, count, limit;
  std::vector<uint8_t> flags;

  // `panel`: tokens that are read at once.
  TopkState state(int64_t rows, int64_t k, int64_t capacity, int64_t panel) {
    if (int64_t(upper.size()) < rows * capacity) {
      upper.resize(rows * capacity);
      lower.resize(rows * capacity);
      indices.resize(rows * capacity);
    }
    threshold.assign(rows + panel, -std::numeric_limits<float>::infinity());  // whole panels are read
    count.assign(rows, 0);
    limit.assign(rows, first_limit(k, capacity));
    flags.assign(rows, 0);
    return {upper.data(), lower.data(), indices.data(), count.data(), limit.data(), threshold.data(), flags.data(), k, capacity};
  }
};

// Rescores the previous block's candidates in small steps between the GEMM tiles of this block. Each step scores the rows
// that the last one prefetched and returns the next addresses to prefetch. Queue: next(list) returns the next list that
// is not empty, if there is one; it is called when the list before is rescored.
template <class Queue>
class Rescoring {
 public:
  // All are rescored in about `steps` steps; finish() does the rest. `group`: columns that a product takes at a time.
  Rescoring(const Queue& queue, const Exact& e, int64_t d, int64_t group, int64_t steps)
      : queue_(queue), exact_(e), d_(d), more_(true) {
    per_step_ = int32_t(std::min<int64_t>(Prefetch::kRows, queue.candidates() / std::max<int64_t>(1, steps) + 1));
    dispatch_dtype(e.w, [&](const auto* w) { prefetch_.step = group * Prefetch::kRows * int64_t(sizeof *w); });
  }
  Rescoring() = default;

  __attribute__((noinline)) const Prefetch& step() {
    if (!more_) return prefetch_;
    dispatch_dtype(exact_.w, [&](const auto* w) {
      rescore(list_, at_, requested_, w, exact_.bias, d_);
      at_ = requested_;
      if (at_ == list_.n && !next()) return;
      requested_ = std::min(at_ + per_step_, list_.n);
      for (int i = 0; i < Prefetch::kRows; ++i)
        prefetch_.row[i] = reinterpret_cast<const char*>(w + list_.index(std::min(at_ + i, requested_ - 1)) * d_);
    });
    return prefetch_;
  }

  void finish() {
    if (!more_) return;
    dispatch_dtype(exact_.w, [&](const auto* w) {
      do rescore_rest(list_, at_, w, exact_.bias, d_);
      while (next());
    });
  }

  // Of all lists that were given.
  const Rescored& rescored() const { return queue_.sum; }

 private:
  bool next() {
    at_ = requested_ = 0;
    more_ = queue_.next(list_);
    if (!more_) prefetch_ = {};
    return more_;
  }

  Queue queue_{};
  Exact exact_{};
  int64_t d_ = 0;
  CandidateList list_{};
  int32_t at_ = 0, requested_ = 0, per_step_ = 1;
  bool more_ = false;
  Prefetch prefetch_;
};

// A block of tokens that begins at token `start`: two lists per token, then its answer.
struct TopkQueue {
  TopkState s;
  int64_t start, rows;
  const float* x;
  int64_t d;
  TopkAnswer out;
  int64_t r = 0;
  int32_t stage = 0, first = 0;
  Rescored sum{};

  bool give(CandidateList& list, int32_t from, int32_t to) const {
    list = list_of(s, r, from, to, x + (start + r) * d);
    return list.n > 0;
  }

  int64_t candidates() const { return std::accumulate(s.count, s.count + rows, int64_t{0}); }

  bool next(CandidateList& list) {
    for (; r < rows; ++r, stage = 0) {
      if (stage == 0) {
        stage = 1;
        first = first_pass(s, r);
        if (give(list, 0, first)) return true;
      }
      if (stage == 1) {
        stage = 2;
        const int32_t from = first;
        first = second_pass(s, r, from);
        if (give(list, from, first)) return true;
      }
      sum += finish_rescoring(s, r, first);
      const int64_t token = start + r;
      finish_row(s, r, out.values + token * out.k, out.indices + token * out.k);
      out.flags[token] = s.flags[r];
    }
    return false;
  }
};

template <class T>
static Rescored int_topk_of(const IntTile& t, const Exact& e, const TopkAnswer& out, int threads) {
  const Blocks blocks = Blocks::of<T>(t, threads);
  const PanelBounds most(t);
  Rescored total;
  std::mutex lock;
  parallel_workers(blocks.count, threads, [&](const auto& take) {
    const TileRegisters registers;
    Rescored mine;
    // Kept between steps: zeroing new memory would cost a fiftieth of a step. Two: one is filled while the other is
    // rescored.
    static thread_local Scratch scratch[2];
    Rescoring<TopkQueue> before;
    int which = 0;
    for (int64_t block; (block = take()) >= 0; which ^= 1) {
      const int64_t begin = blocks.first(block), end = blocks.first(block + 1);
      const int64_t r0 = begin * kTokenPanel<T>, rows = std::min(end * kTokenPanel<T>, t.rows) - r0;
      const TopkState s = scratch[which].state(rows, out.k, out.capacity, kTokenPanel<T>);
      int_gemm_filter<T>(t, most, begin, end, [&](int64_t r) { return s.threshold + (r - r0); },
                    // Unconditional, because the branch would be unpredictable. The threshold of a row that overflowed is ∞.
                    [&](int64_t r, const Hits<2>& hits, int32_t first) { append(hits, Numbered{t.features + first}, s, r - r0); },
                    [&] { return before.step(); });
      before.finish();
      mine += before.rescored();
      before = {{s, r0, rows, e.x, t.d, out}, e, t.d, kGroup<T>, blocks.products(t, block)};
    }
    before.finish();
    mine += before.rescored();
    const std::lock_guard<std::mutex> locked(lock);
    total += mine;
  });
  return total;
}

// A block of tokens that begins at token `start`: one list per token, of which the active candidates are kept.
struct ActiveQueue {
  RowBuffers* rows;
  int64_t start, end;
  const float* x;
  const float* threshold;
  int64_t d;
  int64_t r = -1;
  Rescored sum{};

  int64_t candidates() const {
    int64_t n = 0;
    for (int64_t i = start; i < end; ++i) n += int64_t((*rows)[i].size());
    return n;
  }

  bool next(CandidateList& list) {
    if (r >= start) keep_active((*rows)[r], threshold);
    for (r = std::max(r + 1, start); r < end; ++r)
      if (std::vector<Entry>& row = (*rows)[r]; !row.empty()) {
        list = list_of(row, x + r * d);
        sum += {list.n, list.n};
        return true;
      }
    return false;
  }
};

template <class T>
static Rescored int_threshold_of(const IntTile& t, const Exact& e, RowBuffers& rows, int threads) {
  const Blocks blocks = Blocks::of<T>(t, threads);
  const PanelBounds most(t);
  const float zeros[kTokenPanel<T>] = {};
  Rescored total;
  std::mutex lock;
  parallel_workers(blocks.count, threads, [&](const auto& take) {
    const TileRegisters registers;
    Rescored mine;
    Rescoring<ActiveQueue> before;
    for (int64_t block; (block = take()) >= 0;) {
      const int64_t begin = blocks.first(block), end = blocks.first(block + 1);
      int_gemm_filter<T>(t, most, begin, end, [&](int64_t) { return zeros; },
                    [&](int64_t r, const Hits<2>& hits, int32_t first) {
                      for (int half = 0; half < 2; ++half)
                        for (uint32_t mask = hits.mask[half]; mask; mask &= mask - 1) {
                          const int lane = __builtin_ctz(mask);
                          rows[r].push_back({hits.upper[half][lane], first + half * MS_WIDTH + lane});
                        }
                    },
                    [&] { return before.step(); });
      before.finish();
      mine += before.rescored();
      before = {{&rows, begin * kTokenPanel<T>, std::min(end * kTokenPanel<T>, t.rows), e.x, e.threshold, t.d}, e, t.d,
                kGroup<T>, blocks.products(t, block)};
    }
    before.finish();
    mine += before.rescored();
    const std::lock_guard<std::mutex> locked(lock);
    total += mine;
  });
  return total;
}

static Rescored int_topk(IntProduct product, const IntTile& t, const Exact& e, const TopkAnswer& out, int threads) {
  const auto by = t.count                         ? int_topk_of<Listed>
                  : product == IntProduct::int8 ? int_topk_of<int8_t>
                                                : int_topk_of<int16_t>;
  return by(t, e, out, threads);
}

static Rescored int_threshold(IntProduct product, const IntTile& t, const Exact& e, RowBuffers& rows, int threads) {
  const auto by = t.count                         ? int_threshold_of<Listed>
                  : product == IntProduct::int8 ? int_threshold_of<int8_t>
                                                : int_threshold_of<int16_t>;
  return by(t, e, rows, threads);
}

}  // namespace ms::MS_ISA
MS_TARGET_END
