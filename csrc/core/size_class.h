// The sizes that pools keep freed memory in.
#pragma once

#include <cstdint>

namespace na {

// Four classes to each doubling: at most a quarter is wasted. The smallest is the alignment.
constexpr int64_t size_class(int64_t bytes, int64_t alignment) {
  int64_t step = alignment;
  while (step * 8 < bytes) step *= 2;
  return bytes <= alignment ? alignment : (bytes + step - 1) / step * step;
}

}  // namespace na
