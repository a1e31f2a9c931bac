#include "tensor_map.h"

#include <cstring>

#include "swizzle.h"

namespace ptx {
namespace {

// Bytes of an element, by the value of CUtensorMapDataType: UINT8, UINT16, UINT32, INT32, UINT64, INT64, FLOAT16,
// FLOAT32, FLOAT64, BFLOAT16. Later ones convert while they copy (FLOAT32_FTZ, TFLOAT32) or pack; nothing here uses
// them.
constexpr uint8_t kElementBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
constexpr int kTypes = sizeof(kElementBytes);
constexpr int kFirstFloat = 6;

std::string of_axis(const char* name, uint32_t axis, uint64_t value, const char* rule) {
  return std::string(name) + "[" + std::to_string(axis) + "] is " + std::to_string(value) + ", but must " + rule;
}

std::string of(const char* name, int64_t value, const char* rule) {
  return std::string(name) + " is " + std::to_string(value) + ", but must " + rule;
}

std::string check_modes(int type, uint32_t rank, int interleave, int swizzle, int fill) {
  if (type < 0 || type >= kTypes) return of("tensorDataType", type, "be 0 (UINT8) to 9 (BFLOAT16)");
  if (rank < 1 || rank > 5) return of("tensorRank", rank, "be 1 to 5");
  if (interleave != 0) return of("interleave", interleave, "be 0: interleaved layouts are not supported here");
  if (swizzle < 0 || swizzle > 3) return of("swizzle", swizzle, "be 0 (none), 1 (32B), 2 (64B) or 3 (128B)");
  if (fill < 0 || fill > 1) return of("oobFill", fill, "be 0 (zeros) or 1 (NaN)");
  if (fill == 1 && type < kFirstFloat) return of("oobFill", fill, "be 0 (zeros) when the type is not a float type");
  return {};
}

std::string check_axes(uint32_t rank, const uint64_t* extent, const uint64_t* strides, const uint32_t* box,
                       const uint32_t* element_strides) {
  for (uint32_t i = 0; i < rank; i++) {
    if (extent[i] < 1 || extent[i] > uint64_t{1} << 32) return of_axis("globalDim", i, extent[i], "be 1 to 2^32");
    if (box[i] < 1 || box[i] > 256) return of_axis("boxDim", i, box[i], "be 1 to 256");
    if (element_strides[i] < 1 || element_strides[i] > 8) {
      return of_axis("elementStrides", i, element_strides[i], "be 1 to 8");
    }
  }
  for (uint32_t i = 0; i + 1 < rank; i++) {
    if (strides[i] % 16 != 0) return of_axis("globalStrides", i, strides[i], "be a multiple of 16");
    if (strides[i] >= uint64_t{1} << 40) return of_axis("globalStrides", i, strides[i], "be less than 2^40");
  }
  return {};
}

std::string check_inner(uint64_t bytes, Swizzle swizzle) {
  const auto given = static_cast<int64_t>(bytes);
  if (bytes % 16 != 0) return of("boxDim[0] in bytes", given, "be a multiple of 16");
  const uint64_t span = swizzle_span(swizzle);
  if (swizzle != Swizzle::kNone && bytes > span) {
    return of("boxDim[0] in bytes", given, ("be at most the swizzle span of " + std::to_string(span)).c_str());
  }
  return {};
}

}  // namespace

std::string encode_tensor_map(void* map, int type, uint32_t rank, const void* address, const uint64_t* extent,
                              const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                              int interleave, int swizzle, int fill) {
  std::string wrong = check_modes(type, rank, interleave, swizzle, fill);
  if (!wrong.empty()) return wrong;
  const auto base = reinterpret_cast<uint64_t>(address);
  if (base == 0 || base % 16 != 0) return of("globalAddress", static_cast<int64_t>(base), "be a multiple of 16, not 0");
  wrong = check_axes(rank, extent, strides, box, element_strides);
  if (!wrong.empty()) return wrong;
  const uint8_t element_bytes = kElementBytes[type];
  const auto mode = static_cast<Swizzle>(swizzle);
  wrong = check_inner(uint64_t{box[0]} * element_bytes, mode);
  if (!wrong.empty()) return wrong;

  TensorMap result = {};
  result.magic = kTensorMapMagic;
  result.address = base;
  for (uint32_t i = 0; i < 5; i++) {
    result.extent_minus_1[i] = i < rank ? static_cast<uint32_t>(extent[i] - 1) : 0;
    result.box[i] = static_cast<uint16_t>(i < rank ? box[i] : 1);
    // Axis 0 has no stride without interleaving: what is given for it is ignored.
    result.element_stride[i] = static_cast<uint8_t>(i > 0 && i < rank ? element_strides[i] : 1);
  }
  for (uint32_t i = 0; i + 1 < rank; i++) result.bytes_stride[i] = strides[i];
  result.rank = static_cast<uint8_t>(rank);
  result.element_bytes = element_bytes;
  result.type = static_cast<uint8_t>(type);
  result.swizzle = static_cast<uint8_t>(swizzle);
  result.fill_nan = static_cast<uint8_t>(fill);
  std::memcpy(map, &result, sizeof result);
  return {};
}

}  // namespace ptx
