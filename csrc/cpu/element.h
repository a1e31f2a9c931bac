// Single elements of floating-point tensors.
#pragma once

#include "core/backend.h"
#include "core/half.h"

namespace na::cpu {

inline float load_element(const na_tensor& tensor, int64_t offset) {
  switch (tensor.dtype) {
    case NA_FLOAT32: return static_cast<const float*>(tensor.data)[offset];
    case NA_FLOAT16: return float16_to_float(static_cast<const uint16_t*>(tensor.data)[offset]);
    default: return bfloat16_to_float(static_cast<const uint16_t*>(tensor.data)[offset]);
  }
}

inline void store_element(const na_tensor& tensor, int64_t offset, float value) {
  switch (tensor.dtype) {
    case NA_FLOAT32: static_cast<float*>(tensor.data)[offset] = value; break;
    case NA_FLOAT16: static_cast<uint16_t*>(tensor.data)[offset] = float_to_float16(value); break;
    default: static_cast<uint16_t*>(tensor.data)[offset] = float_to_bfloat16(value);
  }
}

}  // namespace na::cpu
