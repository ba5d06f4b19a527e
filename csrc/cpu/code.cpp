// What the entries of a code are: whether they point where they should, how many are active, and of which features.
#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace ms {

CodeRange code_range(const int32_t* indices, int64_t entries, const int64_t* offsets, int64_t n) {
  CodeRange range = {0, -1, true};
  if (entries) range.least = range.most = indices[0];
  for (int64_t e = 1; e < entries; ++e) {
    range.least = std::min(range.least, indices[e]);
    range.most = std::max(range.most, indices[e]);
  }
  for (int64_t t = 0; t < n; ++t) range.ascends &= offsets[t] <= offsets[t + 1];
  return range;
}

CodeSums code_sums(const float* values, const int32_t* indices, int64_t entries, int64_t features, uint8_t* fired) {
  std::fill(fired, fired + features, uint8_t{0});
  CodeSums sums = {0, 0};
  for (int64_t e = 0; e < entries; ++e) {
    const bool active = values[e] != 0;  // NaN is
    sums.active += active;
    sums.size += std::fabs(values[e]);
    if (active && uint32_t(indices[e]) < uint64_t(features)) fired[indices[e]] = 1;  // others: places of no entry
  }
  return sums;
}

}  // namespace ms
