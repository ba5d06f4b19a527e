// Counting sort of a code's entries by feature; entries of one feature stay in the order of their tokens.
#include <algorithm>
#include <vector>

#include "../core/parallel.h"
#include "kernels.h"

namespace ms {

void csc(const int32_t* indices, const int64_t* offsets, int64_t n, int64_t features, int64_t* starts,
         int64_t* entries, int32_t* tokens, int threads) {
  // Each worker counts and then places a contiguous share of tokens; its cursor begins behind those of the shares
  // before it, so the result does not depend on how many workers there are. The counters are kept to a size that is
  // small beside the entries themselves.
  const int64_t nnz = n ? offsets[n] : 0;
  const int shares = int(std::max<int64_t>(1, std::min<int64_t>(threads, nnz / (4 * std::max<int64_t>(features, 1)) + 1)));
  const auto first = [&](int share) { return n * share / shares; };
  std::vector<int64_t> cursor(size_t(shares) * features, 0);
  parallel_for(shares, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t e = offsets[first(int(s))]; e < offsets[first(int(s) + 1)]; ++e) ++cursor[s * features + indices[e]];
  });
  int64_t at = 0;
  for (int64_t f = 0; f < features; ++f) {
    starts[f] = at;
    for (int s = 0; s < shares; ++s) {
      const int64_t count = cursor[s * features + f];
      cursor[s * features + f] = at;
      at += count;
    }
  }
  starts[features] = at;
  parallel_for(shares, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s)
      for (int64_t t = first(int(s)); t < first(int(s) + 1); ++t)
        for (int64_t e = offsets[t]; e < offsets[t + 1]; ++e) {
          const int64_t place = cursor[s * features + indices[e]]++;
          entries[place] = e;
          tokens[place] = int32_t(t);
        }
  });
}

}  // namespace ms
