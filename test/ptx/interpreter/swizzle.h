// How tensor copies and wgmma permute 16-byte chunks of shared memory, so that both rows and columns of a tile spread
// over all banks.
#pragma once

#include <cstdint>

#include "tensor_map.h"

namespace ptx {

// Bytes of a row of the pattern; 8 rows of it, 16 bytes each apart when nothing is permuted.
constexpr uint64_t swizzle_span(Swizzle mode) {
  return mode == Swizzle::kNone ? 16 : uint64_t{16} << static_cast<uint32_t>(mode);
}

// Where the byte lies that would lie at `address` without swizzling: bits from 4 on are combined with as many from 7
// on. Addresses are those of the shared space, so that all who use the memory agree, wherever their tile starts.
constexpr uint64_t swizzled(Swizzle mode, uint64_t address) {
  const uint64_t chunks = swizzle_span(mode) / 16 - 1;
  return address ^ ((address >> 7 & chunks) << 4);
}

}  // namespace ptx
