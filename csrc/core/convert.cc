#include "core/convert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/dtype.h"
#include "core/half.h"

namespace na {
namespace {

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(Half value) { return float16_to_float(value.bits); }
inline float widen(Brain value) { return bfloat16_to_float(value.bits); }
inline int64_t widen(int64_t value) { return value; }
inline int64_t widen(int32_t value) { return value; }
inline int64_t widen(uint8_t value) { return value; }

// Integers saturate and NaN becomes 0, as with WebAssembly's saturating truncation.
template <class To, class From>
To narrow(From value) {
  if constexpr (std::is_same_v<To, Half>) {
    return {float_to_float16(static_cast<float>(value))};
  } else if constexpr (std::is_same_v<To, Brain>) {
    return {float_to_bfloat16(static_cast<float>(value))};
  } else if constexpr (std::is_floating_point_v<To>) {
    return static_cast<To>(value);
  } else if constexpr (std::is_floating_point_v<From>) {
    if (std::isnan(value)) return 0;
    if (value <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (value >= static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(value);
  } else {
    if (value < static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (value > static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(value);
  }
}

template <class From, class To>
void row(const void* source, int64_t source_stride, void* target, int64_t target_stride, int64_t count) {
  const From* from = static_cast<const From*>(source);
  To* to = static_cast<To*>(target);
  if constexpr (std::is_same_v<From, To>) {
    if (source_stride == 1 && target_stride == 1) {
      memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
    } else {
      for (int64_t i = 0; i < count; i++) to[i * target_stride] = from[i * source_stride];
    }
  } else {
    for (int64_t i = 0; i < count; i++) to[i * target_stride] = narrow<To>(widen(from[i * source_stride]));
  }
}

template <class From>
ConvertRow row_to(int32_t target) {
  switch (target) {
    case NA_FLOAT32: return row<From, float>;
    case NA_FLOAT16: return row<From, Half>;
    case NA_BFLOAT16: return row<From, Brain>;
    case NA_INT32: return row<From, int32_t>;
    case NA_UINT8: return row<From, uint8_t>;
    default: return row<From, int64_t>;
  }
}

}  // namespace

ConvertRow convert_row(int32_t source, int32_t target) {
  switch (source) {
    case NA_FLOAT32: return row_to<float>(target);
    case NA_FLOAT16: return row_to<Half>(target);
    case NA_BFLOAT16: return row_to<Brain>(target);
    case NA_INT32: return row_to<int32_t>(target);
    case NA_UINT8: return row_to<uint8_t>(target);
    default: return row_to<int64_t>(target);
  }
}

}  // namespace na
