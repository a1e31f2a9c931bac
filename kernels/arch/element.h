// Element types of tensors, and conversions between them as csrc/core/convert.cc makes them on the host: to nearest,
// integers saturate, and NaN becomes 0 in an integer.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <type_traits>

namespace na::cuda {

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline int64_t widen(int64_t value) { return value; }
__device__ inline int64_t widen(int32_t value) { return value; }
__device__ inline int64_t widen(uint8_t value) { return value; }

template <typename To>
constexpr To kLeast = std::is_same_v<To, uint8_t>   ? 0
                      : std::is_same_v<To, int32_t> ? INT32_MIN
                                                    : static_cast<To>(INT64_MIN);
template <typename To>
constexpr To kMost = std::is_same_v<To, uint8_t>   ? 255
                     : std::is_same_v<To, int32_t> ? INT32_MAX
                                                   : static_cast<To>(INT64_MAX);

template <typename To, typename From>
__device__ inline To narrow(From value) {
  if constexpr (std::is_same_v<To, __half>) {
    return __float2half_rn(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, __nv_bfloat16>) {
    return __float2bfloat16_rn(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, float>) {
    return static_cast<float>(value);
  } else if constexpr (std::is_same_v<From, float>) {
    if (isnan(value)) return 0;
    if (value <= static_cast<float>(kLeast<To>)) return kLeast<To>;
    if (value >= static_cast<float>(kMost<To>)) return kMost<To>;
    return static_cast<To>(value);
  } else {
    return value < kLeast<To> ? kLeast<To> : value > kMost<To> ? kMost<To> : static_cast<To>(value);
  }
}

}  // namespace na::cuda
