#pragma once

#include <stdint.h>

namespace na::cuda {

// The least n with 2^n >= number.
inline int32_t exponent(int64_t number) {
  int32_t n = 0;
  while (int64_t{1} << n < number) n++;
  return n;
}

}  // namespace na::cuda
