// Element types: names as in the public contract, and sizes.
#pragma once

#include <cstdint>

#include "core/backend.h"

namespace na {

inline constexpr const char* kDtypeNames[] = {"float32", "float16", "bfloat16", "int32", "uint8", "int64"};
inline constexpr int kDtypeCount = 6;

constexpr int64_t dtype_size(int32_t dtype) {
  switch (dtype) {
    case NA_FLOAT32:
    case NA_INT32: return 4;
    case NA_FLOAT16:
    case NA_BFLOAT16: return 2;
    case NA_UINT8: return 1;
    default: return 8;
  }
}

// Bytes of the row of a token and head in a page (na_pages).
constexpr int64_t page_row_bytes(int32_t dtype, bool int8, int64_t columns) {
  return int8 ? columns + NA_UNIT_BYTES : columns * dtype_size(dtype);
}

inline const char* dtype_name(int32_t dtype) { return kDtypeNames[dtype]; }
constexpr bool dtype_is_float(int32_t dtype) { return dtype <= NA_BFLOAT16; }

}  // namespace na
