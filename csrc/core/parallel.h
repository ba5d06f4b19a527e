// Loops over independent items on the thread pool that PyTorch uses (OpenMP); plain threads where there is none.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#ifdef _OPENMP
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace ms {

// Calls work(take) once on every worker; take() hands out the next of `pieces`, −1 when there are none left. Pieces go to
// workers as they become free: rows of a dictionary differ by orders of magnitude in work.
template <class Work>
void parallel_workers(int64_t pieces, int threads, const Work& work) {
  std::atomic<int64_t> handed{0};
  const auto take = [&] {
    const int64_t piece = handed++;
    return piece < pieces ? piece : int64_t{-1};
  };
  if (pieces <= 1) threads = 1;
  if (threads <= 1) return work(take);
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work(take);
#else
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back([&] { work(take); });
  work(take);
  for (auto& t : pool) t.join();
#endif
}

// Calls body(begin, end) on pieces of `grain` items; on all of them at once where there is one worker. Every item is done
// by one worker, so results do not depend on how many there are.
template <class Body>
void parallel_for(int64_t items, int64_t grain, int threads, const Body& body) {
  const int64_t pieces = (items + grain - 1) / grain;
  if (threads <= 1 || pieces <= 1) {
    if (items > 0) body(int64_t{0}, items);
    return;
  }
  parallel_workers(pieces, threads, [&](const auto& take) {
    for (int64_t p; (p = take()) >= 0;) body(p * grain, std::min(items, (p + 1) * grain));
  });
}

// The sum, by +=, of what body(begin, end) returns for the pieces. Sum: of integers, so that the order does not matter.
template <class Sum, class Body>
Sum parallel_sum(int64_t items, int64_t grain, int threads, const Body& body) {
  Sum total;
  std::mutex lock;
  parallel_for(items, grain, threads, [&](int64_t begin, int64_t end) {
    const Sum part = body(begin, end);
    const std::lock_guard<std::mutex> locked(lock);
    total += part;
  });
  return total;
}

}  // namespace ms
