// Loops over independent items on the thread pool that PyTorch uses (OpenMP); plain threads where there is none.
#pragma once

#include <algorithm>
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#else
#include <atomic>
#include <thread>
#include <vector>
#endif

namespace ms {

// Calls body(begin, end) on pieces of `grain` items. Pieces are handed out as workers become free: rows of a
// dictionary differ by orders of magnitude in work. Every item is done by one worker, so results do not depend on it.
template <class Body>
void parallel_for(int64_t items, int64_t grain, int threads, const Body& body) {
  const int64_t pieces = (items + grain - 1) / grain;
  if (threads <= 1 || pieces <= 1) {
    if (items > 0) body(int64_t{0}, items);
    return;
  }
  const auto piece = [&](int64_t p) { body(p * grain, std::min(items, (p + 1) * grain)); };
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t p = 0; p < pieces; ++p) piece(p);
#else
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t p; (p = next++) < pieces;) piece(p);
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (auto& t : pool) t.join();
#endif
}

}  // namespace ms
