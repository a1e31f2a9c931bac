// Nothing but bfloat16 matrix products with float32 sums, on operands that stay where they are: wgmma on Hopper,
// mma.sync elsewhere. The operands are random, since zeros take less power and so let the clock run faster.
#include "../../test/ptx/kernels/ptx.h"
#include "peak.h"

using namespace test_kernels;

namespace {

// bfloat16 numbers of magnitude 1 to 2, either sign.
__device__ uint32_t random_pair(uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return (state & 0x807f807fu) | 0x3f803f80u;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(PEAK_THREADS, 1) matrix_peak(int steps, float* nowhere) {
  uint32_t state = blockIdx.x * blockDim.x + threadIdx.x + 1;
  uint32_t a[4];
  for (uint32_t& pair : a) pair = random_pair(state);
#if __CUDA_ARCH__ == 900
  // Each of the two warpgroups: 64 x 128 x 16 in a step, the second factor in shared memory.
  __shared__ __align__(1024) uint32_t b[16 * 128 / 2];
  for (int i = threadIdx.x; i < 16 * 128 / 2; i += PEAK_THREADS) b[i] = random_pair(state);
  asm volatile("fence.proxy.async;" ::: "memory");
  __syncthreads();
  const uint64_t factor = matrix(shared_address(b), 2048, 1024);
  float sums[64] = {};
  for (int step = 0; step < steps; step += 8) {
    multiply_fence();
#pragma unroll
    for (int i = 0; i < 8; i++) multiply_registers(sums, a, factor);
    multiply_commit();
    multiply_wait();
  }
  constexpr int kSums = 64;
#else
  // Each of the eight warps: sixteen products of 16 x 8 x 16 in a step, in as many sums.
  float sums[16][4] = {};
  const uint32_t b0 = random_pair(state), b1 = random_pair(state);
  for (int step = 0; step < steps; step++) {
#pragma unroll
    for (int i = 0; i < 16; i++) multiply(sums[i], a, b0, b1);
  }
  constexpr int kSums = 16;
#endif
  // Never true, but the compiler does not know that.
  if (!nowhere) return;
  for (int i = 0; i < kSums; i++) *nowhere += reinterpret_cast<const float*>(sums)[i];
}
