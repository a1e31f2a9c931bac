// Division by numbers that are known beforehand.
#pragma once

#include "attention/problem.h"
#include "tile/exponent.h"

namespace na::cuda {

// Of a number from 1 to 2^31.
inline Divisor divisor_of(int64_t number) {
  const int32_t shift = exponent(number);
  const uint64_t rest = (uint64_t{1} << shift) - static_cast<uint64_t>(number);
  return {static_cast<int32_t>(number), static_cast<uint32_t>((rest << 32) / static_cast<uint64_t>(number) + 1), shift};
}

// The whole part of n / number, n from 0.
__device__ inline int32_t divide(int32_t n, const Divisor& by) {
  const auto whole = static_cast<uint32_t>(n);
  const auto high = static_cast<uint32_t>(uint64_t{whole} * by.multiplier >> 32);
  return static_cast<int32_t>((high + whole) >> by.shift);
}

}  // namespace na::cuda
