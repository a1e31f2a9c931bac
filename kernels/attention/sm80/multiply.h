// The two matrix products of a warp: scores += Q K^T and out += P V.
//
// Both elements that mma.sync takes have the same shape in bytes: a step of the inner dimension is two chunks of 16
// bytes, 16 halves or 8 TF32, and ldmatrix gives every lane the 32 bits that the instruction wants. Only the values of
// TF32, whose rows run the wrong way, cannot be turned by ldmatrix, and are loaded one by one.
#pragma once

#include "arch/sm80.h"
#include "attention/sm80/shared.h"
#include "attention/sm80/tiles.h"
#include "tile/operand.h"

namespace na::cuda {

// scores += Q K^T. `query(set, step)` gives a warp's operand of mma.sync.
template <typename T, typename Query>
__device__ inline void multiply_keys(float (&scores)[T::kRowSets][T::kTeamKeys / 8][4], const Query& query, uint32_t k,
                                     int lane) {
  using Shared = SharedRows<T::kHeadDim * T::kBytes>;
  const uint32_t own = Shared::offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int step = 0; step < T::kHeadDim / T::kStep; step++) {
    Left<T::kProducts> a[T::kRowSets];
#pragma unroll
    for (int set = 0; set < T::kRowSets; set++) {
      uint32_t q[4];
      query(set, step, q);
      a[set] = left<T::kElement, T::kProducts>(q);
    }
    const uint32_t column = k + Shared::advance(own, step);
#pragma unroll
    for (int key = 0; key < T::kTeamKeys; key += 16) {
      uint32_t b[4];  // keys 0-7 and 8-15, each for the lower and the upper half of the step
      load_matrix(b, column + key * T::kHeadDim * T::kBytes);
#pragma unroll
      for (int set = 0; set < T::kRowSets; set++) {
        a[set].template multiply_by<T::kElement>(scores[set][key / 8], b[0], b[1]);
        a[set].template multiply_by<T::kElement>(scores[set][key / 8 + 1], b[2], b[3]);
      }
    }
  }
}

// out += P V. An accumulator of scores is, in pairs, the left operand of half types. With TF32 the instruction's
// columns 0-3 are taken as the even keys of eight and 4-7 as the odd ones, so that an accumulator is an operand as it
// is.
template <typename T>
__device__ inline void multiply_values(float (&out)[T::kRowSets][T::kValueDim / 8][4],
                                       const float (&weights)[T::kRowSets][T::kTeamKeys / 8][4], uint32_t v, int lane) {
  constexpr int kRowBytes = T::kValueDim * T::kBytes;
  using Shared = SharedRows<kRowBytes>;
  if constexpr (T::kElement == Element::kFloat32) {
    const int even_row = lane % 4 * 2;
    const uint32_t within = lane / 4 % 4 * 4;
    const uint32_t even = Shared::offset(even_row, lane / 16) + within;
    const uint32_t odd = Shared::offset(even_row + 1, lane / 16) + within;
#pragma unroll
    for (int step = 0; step < T::kTeamKeys / 8; step++) {
      Left<T::kProducts> a[T::kRowSets];
#pragma unroll
      for (int set = 0; set < T::kRowSets; set++) {
        const float(&w)[4] = weights[set][step];
        const uint32_t bits[4] = {__float_as_uint(w[0]), __float_as_uint(w[2]), __float_as_uint(w[1]),
                                  __float_as_uint(w[3])};
        a[set] = left<T::kElement, T::kProducts>(bits);
      }
#pragma unroll
      for (int column = 0; column < T::kValueDim / 8; column++) {
        const uint32_t row = v + step * 8 * kRowBytes;
        const uint32_t b0 = __float_as_uint(load_shared(row + Shared::advance(even, column)));
        const uint32_t b1 = __float_as_uint(load_shared(row + Shared::advance(odd, column)));
#pragma unroll
        for (int set = 0; set < T::kRowSets; set++) {
          a[set].template multiply_by<T::kElement>(out[set][column], b0, b1);
        }
      }
    }
  } else {
    const uint32_t own = Shared::offset(lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < T::kTeamKeys / 16; step++) {
      Left<1> a[T::kRowSets];
#pragma unroll
      for (int set = 0; set < T::kRowSets; set++) {
        const float(&low)[4] = weights[set][2 * step], (&high)[4] = weights[set][2 * step + 1];
        a[set] = {pack<T::kElement>(low[0], low[1]), pack<T::kElement>(low[2], low[3]),
                  pack<T::kElement>(high[0], high[1]), pack<T::kElement>(high[2], high[3])};
      }
#pragma unroll
      for (int column = 0; column < T::kValueDim / 16; column++) {
        uint32_t b[4];  // columns 0-7 and 8-15, each for keys 0-7 and 8-15 of the step
        load_matrix_transposed(b, v + step * 16 * kRowBytes + Shared::advance(own, column));
#pragma unroll
        for (int set = 0; set < T::kRowSets; set++) {
          a[set].template multiply_by<T::kElement>(out[set][2 * column], b[0], b[1]);
          a[set].template multiply_by<T::kElement>(out[set][2 * column + 1], b[2], b[3]);
        }
      }
    }
  }
}

}  // namespace na::cuda
