// Online softmax (Milakov and Gimelshein 2018) over the two rows that a thread has of an accumulator, see score.h. The
// four threads of a row agree on its maximum and keep sums of their own until the end.
#pragma once

#include "arch/exp2.h"
#include "tile/score.h"

namespace na::cuda {

// What a row's output is to be multiplied by, and its lse, from its largest score, its sum of exp(score - maximum), and
// its sink, -infinity for none. A factor of 0 means a row that saw nothing: its output is 0 whatever was summed up.
// Maxima pass over scores that are NaN, sums do not.
__device__ inline float normalize(float maximum, float sum, float sink, float* lse) {
  const float top = fmaxf(maximum, sink);
  if (top == -kInfinity && sum == 0) {
    *lse = -kInfinity;
    return 0;
  }
  const float share = exp2_approximate((maximum - top) * kLog2E);
  const float total = sum * share + exp2_approximate((sink - top) * kLog2E);
  *lse = top + logf(total);
  return share / total;
}

class Softmax {
 public:
  // Scores become weights exp2(factor * (score - maximum)); decay is what sums and outputs so far are to be multiplied
  // with. factor is positive and always the same: scale * log2(e), without the scale where scores were modified.
  //
  // The maximum is subtracted before the factor is applied. A fused multiply-add would save an instruction, but it sees
  // the product before it is rounded, and where scores are huge the rounding error alone is a large exponent. And a
  // product may overflow, where a difference of that size has a weight of 0 anyway.
  template <int kColumns>
  __device__ void update(float (&scores)[kColumns][4], float factor, float (&decay)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float top = scores[0][2 * r];
#pragma unroll
      for (int i = 1; i < 2 * kColumns; i++) top = fmaxf(top, scores[i / 2][2 * r + i % 2]);
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
      top = fmaxf(top, maximum_[r]);
      const float zero = top == -kInfinity ? 0 : top;  // nothing seen so far: all weights are 0
      decay[r] = exp2_approximate((maximum_[r] - zero) * factor);
      maximum_[r] = top;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 2 * kColumns; i++) {
        float& score = scores[i / 2][2 * r + i % 2];
        score = exp2_approximate((score - zero) * factor);
        sum += score;
      }
      sum_[r] = sum_[r] * decay[r] + sum;
    }
  }

  // Of row r, behind the last tile: its largest score, of products still to be multiplied by `scale`, 1 where scores
  // were modified; and its sum, which all four threads must ask for. The product is rounded before anything is
  // subtracted from it, too.
  __device__ float maximum(int r, float scale) const { return __fmul_rn(maximum_[r], scale); }
  __device__ float sum(int r) const {
    float sum = sum_[r];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    return sum;
  }

  // Both put into what normalize() gives.
  __device__ float finish(int r, float scale, float sink, float* lse) const {
    return normalize(maximum(r, scale), sum(r), sink, lse);
  }

 private:
  float maximum_[2] = {-kInfinity, -kInfinity}, sum_[2] = {0, 0};
};

}  // namespace na::cuda
