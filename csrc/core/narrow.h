// Conversion of one element, for the host and for devices: floats round to nearest even, integers saturate, NaN becomes
// 0 in an integer, as with WebAssembly's saturating truncation.
#pragma once

#include <limits>
#include <type_traits>

#include "core/half.h"

namespace na {

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

NA_HOST_DEVICE inline float widen(float value) { return value; }
NA_HOST_DEVICE inline float widen(Half value) { return float16_to_float(value.bits); }
NA_HOST_DEVICE inline float widen(Brain value) { return bfloat16_to_float(value.bits); }
NA_HOST_DEVICE inline int64_t widen(int64_t value) { return value; }
NA_HOST_DEVICE inline int64_t widen(int32_t value) { return value; }
NA_HOST_DEVICE inline int64_t widen(uint8_t value) { return value; }

// Variables, since devices cannot call what std::numeric_limits has.
template <class T>
constexpr T kLeast = std::numeric_limits<T>::min();
template <class T>
constexpr T kMost = std::numeric_limits<T>::max();

template <class To, class From>
NA_HOST_DEVICE To narrow(From value) {
  if constexpr (std::is_same_v<To, Half>) {
    return {float_to_float16(static_cast<float>(value))};
  } else if constexpr (std::is_same_v<To, Brain>) {
    return {float_to_bfloat16(static_cast<float>(value))};
  } else if constexpr (std::is_floating_point_v<To>) {
    return static_cast<To>(value);
  } else {
    constexpr To least = kLeast<To>, most = kMost<To>;
    if constexpr (std::is_floating_point_v<From>) {
      if (value != value) return 0;
      if (value <= static_cast<From>(least)) return least;
      if (value >= static_cast<From>(most)) return most;
    } else {
      if (value < static_cast<From>(least)) return least;
      if (value > static_cast<From>(most)) return most;
    }
    return static_cast<To>(value);
  }
}

// float, Half, Brain ... by dtype: calls `action` with a null pointer to the type.
template <class Action>
auto with_type(int32_t dtype, const Action& action) {
  switch (dtype) {
    case 0: return action(static_cast<float*>(nullptr));
    case 1: return action(static_cast<Half*>(nullptr));
    case 2: return action(static_cast<Brain*>(nullptr));
    case 3: return action(static_cast<int32_t*>(nullptr));
    case 4: return action(static_cast<uint8_t*>(nullptr));
    default: return action(static_cast<int64_t*>(nullptr));
  }
}

}  // namespace na
