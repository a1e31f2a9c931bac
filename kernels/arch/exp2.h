// 2^x as the special function unit gives it: about two units in the last place; denormal results are 0.
#pragma once

namespace na::cuda {

__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace na::cuda
