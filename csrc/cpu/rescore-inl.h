// Rescoring: the value of a candidate in fp32, x · w[index] + bias[index].
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../core/entry.h"
#include "kernels.h"
#include "simd-inl.h"
#include "target.h"

MS_TARGET_BEGIN
namespace ms::MS_ISA {

// Candidates of one token; `stride` from one to the next.
struct CandidateList {
  float* values;
  const int32_t* indices;
  int32_t n;
  int64_t stride;
  const float* token;

  int64_t index(int32_t i) const { return indices[i * stride]; }
};

inline CandidateList list_of(std::vector<Entry>& entries, const float* token) {
  constexpr int64_t stride = sizeof(Entry) / sizeof(float);
  if (entries.empty()) return {nullptr, nullptr, 0, stride, token};  // then data() may be null, and has no members
  return {&entries.data()->value, &entries.data()->index, int32_t(entries.size()), stride, token};
}

// Rescores candidates `from` to `to`, two at a time.
template <class T>
MS_INLINE void rescore(const CandidateList& list, int32_t from, int32_t to, const T* w, const float* bias, int64_t d) {
  const auto row = [&](int32_t i) { return w + list.index(i) * d; };
  const auto put = [&](int32_t i, double product) {
    list.values[i * list.stride] = float(product) + bias[list.index(i)];
  };
  int32_t i = from;
  for (; i + 2 <= to; i += 2) {
    double product[2];
    dots<2, T>(list.token, {row(i), row(i + 1)}, d, product);
    put(i, product[0]);
    put(i + 1, product[1]);
  }
  if (i < to) put(i, dot(list.token, row(i), d));
}

// The same from `from` to the end, with the rows of the next candidates prefetched.
template <class T>
MS_INLINE void rescore_rest(const CandidateList& list, int32_t from, const T* w, const float* bias, int64_t d) {
  constexpr int32_t kStep = 2, kAhead = 4;
  const auto prefetch = [&](int32_t i) {
    for (const int32_t end = std::min(i + kStep, list.n); i < end; ++i) prefetch_row(w + list.index(i) * d, d);
  };
  for (int32_t i = from; i < from + kAhead; i += kStep) prefetch(i);
  for (int32_t i = from; i < list.n; i += kStep) {
    prefetch(i + kAhead);
    rescore(list, i, std::min(i + kStep, list.n), w, bias, d);
  }
}

}  // namespace ms::MS_ISA
MS_TARGET_END
