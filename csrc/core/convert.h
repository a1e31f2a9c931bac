// Conversion between element types, a row at a time.
#pragma once

#include <cstdint>

namespace na {

// Converts `count` elements; strides count elements. Floats round to nearest even, integers saturate, NaN becomes 0 in
// an integer, as with WebAssembly's saturating truncation.
using ConvertRow = void (*)(const void* source, int64_t source_stride, void* target, int64_t target_stride,
                            int64_t count);
ConvertRow convert_row(int32_t source_dtype, int32_t target_dtype);

}  // namespace na
