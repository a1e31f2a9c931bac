// Queries in sets whose size the compiler knows. Included once by each instruction set.
#pragma once

#include "cpu/executor/vector.h"

namespace na::cpu {
namespace {

// Calls run(together, lane) for sets of queries up to `lanes`, kMost of them at once as long as there are so many.
template <int kNumber>
struct Together {
  static constexpr int kCount = kNumber;
};

template <int kMost, typename Run>
NA_INLINE void by_queries(int lane, int lanes, const Run& run) {
  for (; lane + kMost <= lanes; lane += kMost) run(Together<kMost>(), lane);
  if constexpr (kMost > 1) by_queries<kMost / 2>(lane, lanes, run);
}

}  // namespace
}  // namespace na::cpu
