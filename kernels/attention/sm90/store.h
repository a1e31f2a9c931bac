// The end of an item: sums become rows of the result and their lse.
#pragma once

#include "attention/sm90/produce.h"
#include "tile/softmax.h"

namespace na::cuda {

// Outputs of a consumer to shared memory, as its tensor copy expects them.
template <typename T>
__device__ inline void store_shared_out(uint8_t* to, const float (&out)[T::kValueDim / 8][4], int warp, int lane) {
#pragma unroll
  for (int i = 0; i < T::kValueDim / 4; i++) {
    const int r = i % 2, row = warp * 16 + r * 8 + lane / 4, column = i / 2 * 8;
    const int chunk = (column % T::kBoxColumns / 8) ^ (row * T::kSpan / 128 % (T::kSpan / 16));
    uint8_t* const at = to + column / T::kBoxColumns * T::kRowBoxBytes + row * T::kSpan + chunk * 16 + lane % 4 * 4;
    *reinterpret_cast<uint32_t*>(at) = pack<T::kElement>(out[i / 2][2 * r], out[i / 2][2 * r + 1]);
  }
}

// Two neighbouring columns of every eight, of one row.
template <typename T>
__device__ inline void store_row(const Problem& problem, const Work<T>& work, const float (&out)[T::kValueDim / 8][4],
                                 int r, int64_t query, int64_t index, int lane) {
  const Strides& strides = problem.out_strides;
  auto* const half = static_cast<uint16_t*>(problem.out) + work.sequence.batch * strides.batch + query * strides.token +
                     work.head * strides.head;
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

}  // namespace na::cuda
