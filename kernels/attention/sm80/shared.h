// Matrices in shared memory: rows of chunks of 16 bytes, the chunks of a row exchanged by the row's number so that the
// eight rows of a matrix of ldmatrix, which are one column of chunks, lie in different banks.
#pragma once

#include <stdint.h>

namespace na::cuda {

template <int kRowBytes>
struct SharedRows {
  static constexpr int kChunks = kRowBytes / 16;
  static_assert(kChunks % 4 == 0);
  // With an odd multiple of 64 bytes to a row, two rows fill the banks, and they are exchanged together.
  static constexpr int kExchanged = kChunks % 8 == 0 ? 8 : 4;

  __device__ static uint32_t offset(int row, int chunk) {
    const int by = kExchanged == 8 ? row % 8 : row / 2 % 4;
    return static_cast<uint32_t>(row * kRowBytes + (chunk ^ by) * 16);
  }

  // offset(row, 2 * step + c) of c in {0, 1}, given offset(row, c): one instruction at most.
  __device__ static uint32_t advance(uint32_t offset, int step) {
    constexpr int kSteps = kExchanged / 2;
    return (offset ^ static_cast<uint32_t>(step % kSteps * 32)) + static_cast<uint32_t>(step / kSteps * kSteps * 32);
  }
};

}  // namespace na::cuda
