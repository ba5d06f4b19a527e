// A candidate of the selection: a pre-activation and its feature, ordered as the TopK contract says.
#pragma once

#include <cstdint>

namespace ms {

struct Entry {
  float value;
  int32_t index;
};

// Larger first; among equals the lowest index. A total order, so selection has one answer on every machine.
struct Before {
  bool operator()(const Entry& a, const Entry& b) const {
    return a.value > b.value || (a.value == b.value && a.index < b.index);
  }
};

}  // namespace ms
