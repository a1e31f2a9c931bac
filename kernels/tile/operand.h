// Operands of mma.sync as they are, and of float32 taken apart.
#pragma once

#include "arch/sm80.h"

namespace na::cuda {

// The largest finite TF32: what lies beyond is rounded to it or to infinity.
constexpr float kMostTf32 = 0x1.ffcp127f;

// A float as a sum of two TF32, which hold 22 of its 24 bits or more. The products of big and small parts make one of
// float32 but for small x small. What is as large as TF32 gets has its part in big x big alone: `cross` is what small
// parts of the other operand are multiplied by, 0 there, since 0 x infinity would be NaN, and so would be the sum of a
// big x big and a small x big that overflow to infinities of different signs.
struct Parts {
  uint32_t big, cross, small;
};

__device__ inline Parts split(float x) {
  const uint32_t big = to_tf32(x);
  const bool divisible = fabsf(__uint_as_float(big)) < kMostTf32;
  const uint32_t small = to_tf32(x - __uint_as_float(big));
  return {big, divisible ? big : 0, divisible ? small : 0};
}

// The left operand of products, of one step: as it is, or in parts.
template <int kProducts>
struct Left;

template <>
struct Left<1> {
  uint32_t a[4];
  template <Element kElement>
  __device__ void multiply_by(float (&d)[4], uint32_t b0, uint32_t b1) const {
    if constexpr (kElement == Element::kFloat32) {
      multiply<kElement>(d, a, to_tf32(__uint_as_float(b0)), to_tf32(__uint_as_float(b1)));
    } else {
      multiply<kElement>(d, a, b0, b1);
    }
  }
};

template <>
struct Left<3> {
  uint32_t big[4], cross[4], small[4];
  template <Element kElement>
  __device__ void multiply_by(float (&d)[4], uint32_t b0, uint32_t b1) const {
    const Parts first = split(__uint_as_float(b0)), second = split(__uint_as_float(b1));
    multiply<kElement>(d, small, first.cross, second.cross);
    multiply<kElement>(d, cross, first.small, second.small);
    multiply<kElement>(d, big, first.big, second.big);
  }
};

template <Element kElement, int kProducts>
__device__ inline Left<kProducts> left(const uint32_t (&a)[4]) {
  Left<kProducts> to;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if constexpr (kProducts == 3) {
      const Parts parts = split(__uint_as_float(a[i]));
      to.big[i] = parts.big;
      to.cross[i] = parts.cross;
      to.small[i] = parts.small;
    } else if constexpr (kElement == Element::kFloat32) {
      to.a[i] = to_tf32(__uint_as_float(a[i]));
    } else {
      to.a[i] = a[i];
    }
  }
  return to;
}

}  // namespace na::cuda
