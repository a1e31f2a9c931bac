// The end of an item: sums become rows of the result and their lse.
#pragma once

#include "attention/sm90/produce.h"
#include "tile/softmax.h"

namespace na::cuda::sm90 {

// Outputs of a consumer to shared memory, as its tensor copy expects them: chunks of 16 bytes are numbered by exclusive
// or with bits of the row, and a box begins where that makes no difference.
template <typename T>
__device__ inline void store_shared_out(uint32_t to, const float (&out)[T::kValueDim / 8][4], int warp, int lane) {
  const int row = warp * 16 + lane / 4, number = row * T::kSpan / 128 % (T::kSpan / 16);
  const uint32_t at = to + late(row * T::kSpan + number * 16 + lane % 4 * 4);
#pragma unroll
  for (int i = 0; i < T::kValueDim / 4; i++) {
    const int r = i % 2, box = i / 2 * 8 / T::kBoxColumns, chunk = i / 2 % (T::kBoxColumns / 8);
    store_shared((at ^ chunk * 16) + box * T::kRowBoxBytes + r * 8 * T::kSpan,
                 pack<T::kElement>(out[i / 2][2 * r], out[i / 2][2 * r + 1]));
  }
}

// Two neighbouring columns of every eight, of row r of the thread; `offset` elements from the first output, and partial
// result `index`.
template <typename T>
__device__ inline void store_row(const Problem& problem, const float (&out)[T::kValueDim / 8][4], int r, int64_t offset,
                                 int64_t index, int lane) {
  auto* const half = static_cast<uint16_t*>(problem.out) + offset;
  float* const whole = problem.part_out + index * problem.value_dim;
#pragma unroll
  for (int i = 0; i < T::kValueDim / 8; i++) {
    const int column = i * 8 + lane % 4 * 2;
    if (column >= problem.value_dim) continue;
    const float low = out[i][2 * r], high = out[i][2 * r + 1];
    if (problem.parts == 0) {
      *reinterpret_cast<uint32_t*>(half + column) = pack<T::kElement>(low, high);
    } else {
      *reinterpret_cast<float2*>(whole + column) = make_float2(low, high);
    }
  }
}

}  // namespace na::cuda::sm90
