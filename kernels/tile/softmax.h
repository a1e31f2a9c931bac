// Online softmax (Milakov and Gimelshein 2018) over the two rows that a thread has of an accumulator, see score.h.
// Everything is in units of log2; the four threads of a row agree on its maximum and keep sums of their own.
#pragma once

#include "tile/score.h"

namespace na::cuda {

class Softmax {
 public:
  // Scores become weights exp2(factor * score - maximum); decay is what sums and outputs so far are to be multiplied
  // with. factor is positive: scale * log2(e), or 1 where scores were modified.
  template <int kColumns>
  __device__ void update(float (&scores)[kColumns][4], float factor, float (&decay)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float top = scores[0][2 * r];
#pragma unroll
      for (int i = 1; i < 2 * kColumns; i++) top = fmaxf(top, scores[i / 2][2 * r + i % 2]);
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
      const float maximum = fmaxf(maximum_[r], top * factor);
      const float zero = maximum == -kInfinity ? 0 : maximum;  // nothing seen so far: all weights are 0
      decay[r] = exp2f(maximum_[r] - zero);
      maximum_[r] = maximum;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 2 * kColumns; i++) {
        float& score = scores[i / 2][2 * r + i % 2];
        score = exp2f(fmaf(score, factor, -zero));
        sum += score;
      }
      sum_[r] = sum_[r] * decay[r] + sum;
    }
  }

  // The sums of whole rows; to be called once, behind the last tile. `sink` in natural units, -infinity for none.
  // Returns by what the outputs of row r are to be multiplied, and its natural lse.
  __device__ float finish(int r, float sink, float* lse) {
    float sum = sum_[r];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    const float top = fmaxf(maximum_[r], sink * kLog2E);
    if (top == -kInfinity) {
      *lse = -kInfinity;
      return 0;
    }
    const float share = exp2f(maximum_[r] - top);
    const float total = sum * share + exp2f(sink * kLog2E - top);
    *lse = top * kLn2 + logf(total);
    return share / total;
  }

 private:
  float maximum_[2] = {-kInfinity, -kInfinity}, sum_[2] = {0, 0};
};

}  // namespace na::cuda
