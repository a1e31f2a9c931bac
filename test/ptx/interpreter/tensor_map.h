// A tensor map (CUtensorMap) as the stand-in driver encodes it and tensor copies read it. The hardware's layout of the
// 128 bytes is secret; this one has the same size and means the same.
#pragma once

#include <cstdint>
#include <string>

namespace ptx {

enum class Swizzle : uint32_t { kNone, k32, k64, k128 };

struct alignas(64) TensorMap {
  uint64_t magic;            // kTensorMapMagic, so that a wrong pointer is found
  uint64_t address;          // of the tensor, 16-byte aligned
  uint64_t bytes_stride[4];  // of axes 1 to rank - 1; axis 0 is contiguous
  uint32_t extent_minus_1[5];
  uint16_t box[5];            // 1 to 256 elements
  uint8_t element_stride[5];  // 1 to 8
  uint8_t rank;               // 1 to 5
  uint8_t element_bytes;      // 1, 2, 4, 8
  uint8_t type;               // CUtensorMapDataType
  uint8_t swizzle;            // Swizzle
  uint8_t fill_nan;           // out-of-bounds elements are NaN instead of zero
  uint8_t interleave;         // always 0: interleaved layouts are not supported
};
static_assert(sizeof(TensorMap) <= 128);

constexpr uint64_t kTensorMapMagic = 0x70616d726f736e54;

// The checks of cuTensorMapEncodeTiled; empty when all is well, else what is wrong. Numbers as in the driver API:
// `strides` has rank - 1 entries, in bytes; enumerations by their values in cuda.h.
std::string encode_tensor_map(void* map, int type, uint32_t rank, const void* address, const uint64_t* extent,
                              const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                              int interleave, int swizzle, int fill);

}  // namespace ptx
