// Sums over the threads of a block.
#pragma once

#include <stdint.h>

namespace na::cuda {

constexpr uint32_t kAllLanes = 0xffffffff;
constexpr int kMostWarps = 32;

using Sum = unsigned long long;

// What the threads before this one have, and all of them; `warps` is shared memory. Every thread of the block takes
// part.
__device__ inline Sum sum_before(Sum own, Sum (&warps)[kMostWarps], Sum* all) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  Sum up_to = own;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Sum from = __shfl_up_sync(kAllLanes, up_to, step);
    if (lane >= step) up_to += from;
  }
  if (lane == 31) warps[warp] = up_to;
  __syncthreads();
  Sum before = up_to - own;
  *all = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; i++) {
    if (i < warp) before += warps[i];
    *all += warps[i];
  }
  __syncthreads();  // all have read
  return before;
}

}  // namespace na::cuda
