// Biases of low rank and by formula, on the accumulators of score.h. What they need to know of a tile's keys is looked
// up once by a warp, each lane for some of them, and handed around.
#pragma once

#include "tile/divisor.h"
#include "tile/operand.h"

namespace na::cuda {

// A thread's two rows. Keys are counted from the first one of their sequence.
struct BiasedRows {
  int32_t batch, first_key;   // of which the latter is that key, among all of the batch entry
  int32_t head[2], query[2];  // the query among all of the batch entry; one that exists
  int32_t position[2];        // of the query, counted as keys are
};

// Where a dense bias has the values of a head, -1 where it has none. The type, and whether what follows branches, is
// chosen by where ptxas spills: the numbers are small.
template <typename Place>
__device__ inline Place place_of(const Bias& bias, int32_t head) {
  return bias.places ? static_cast<Place>(bias.places[head]) : head;
}

// Columns of keys are taken kChunk of eight at a time, 32 keys, of which each lane looks after one.
template <int kColumns>
constexpr int kChunk = kColumns < 4 ? kColumns : 4;

// What the lane that looks after the key of column 8 * i + `column` of a chunk has. All lanes of a warp together.
template <typename Value>
__device__ inline Value of_key(Value own, int i, int column) {
  return __shfl_sync(0xffffffff, own, i * 8 + column);
}

// Press et al. 2022: 2^(-8 (h + 1) / n) for n heads; those that exceed a power of two take every second slope of the
// next one.
__device__ inline float default_slope(int32_t heads, int32_t head) {
  const int32_t power = 1 << (31 - __clz(heads));
  const float eighth = head < power ? static_cast<float>(head + 1) : static_cast<float>(head - power) + 0.5f;
  return exp2f(-8 * eighth / static_cast<float>(power));
}

// Positions count from one that all lanes know, so that distances of up to 2^24 are exact wherever they are.
template <int kCount>
__device__ inline void add_alibi(float (&scores)[kCount][4], const Bias& bias, int32_t heads, const BiasedRows& rows,
                                 int32_t own_key, int32_t lane) {
  const int32_t origin = __shfl_sync(0xffffffff, rows.position[0], 0);
  const float own_offset = static_cast<float>(own_key - origin);
  float slope[2], offset[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    slope[r] = bias.data ? bias.data[rows.head[r] * bias.head] : default_slope(heads, rows.head[r]);
    offset[r] = static_cast<float>(rows.position[r] - origin);
  }
#pragma unroll
  for (int i = 0; i < 2 * kCount; i++) {
    const float key = of_key(own_offset, i / 2, lane % 4 * 2 + i % 2);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float& score = scores[i / 2][2 * r + i % 2];
      score = fmaf(-slope[r], fabsf(offset[r] - key), score);
    }
  }
}

__device__ inline const float* row_of(const BiasRows& rows, int32_t batch, int32_t head, int32_t token) {
  return rows.data + batch * rows.batch + head * rows.head + token * rows.token;
}

__device__ inline void load_point(float (&to)[kMostCoordinates], const Bias& bias, const BiasRows& rows, int32_t batch,
                                  int32_t token) {
  const float* const from = row_of(rows, batch, 0, token);
#pragma unroll
  for (int c = 0; c < kMostCoordinates; c++) to[c] = c < bias.columns ? from[c * rows.column] : 0;
}

template <int kCount>
__device__ inline void add_distance(float (&scores)[kCount][4], const Bias& bias, const BiasedRows& rows,
                                    int32_t own_key, int32_t lane) {
  float point[2][kMostCoordinates], own_point[kMostCoordinates], weight[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    load_point(point[r], bias, bias.q, rows.batch, rows.query[r]);
    weight[r] =
        bias.data ? bias.data[rows.batch * bias.batch + rows.head[r] * bias.head + rows.query[r] * bias.query] : 1;
  }
  // Of keys that do not exist the first one's: their scores are masked.
  load_point(own_point, bias, bias.k, rows.batch, rows.first_key + max(own_key, 0));
#pragma unroll
  for (int i = 0; i < 2 * kCount; i++) {
    float sum[2] = {};
#pragma unroll
    for (int c = 0; c < kMostCoordinates; c++) {
      const float key = of_key(own_point[c], i / 2, lane % 4 * 2 + i % 2);
#pragma unroll
      for (int r = 0; r < 2; r++) sum[r] = fmaf(point[r][c] - key, point[r][c] - key, sum[r]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float& score = scores[i / 2][2 * r + i % 2];
      score = fmaf(-weight[r], sum[r], score);
    }
  }
}

// Steps of a token along each axis, or of a position, which may be negative, where there is one axis.
__device__ inline void steps_of(const Bias& bias, int32_t flat, int32_t (&steps)[kMostAxes]) {
#pragma unroll
  for (int a = kMostAxes - 1; a > 0; a--) {
    const int32_t rest = bias.extent[a].number == 1 ? flat : divide(flat, bias.extent[a]);
    steps[a] = divide(flat - rest * bias.extent[a].number, bias.step[a]);
    flat = rest;
  }
  const int32_t sign = flat >> 31;  // -1 - n is ~n
  steps[0] = divide(flat ^ sign, bias.step[0]) ^ sign;
}

template <int kCount>
__device__ inline void add_relative(float (&scores)[kCount][4], const Bias& bias, const BiasedRows& rows,
                                    int32_t own_key, int32_t lane) {
  int32_t steps[2][kMostAxes], own_steps[kMostAxes];
  const float* table[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    steps_of(bias, rows.position[r], steps[r]);
    table[r] = bias.data + rows.head[r] * bias.head;
  }
  steps_of(bias, own_key, own_steps);
#pragma unroll
  for (int i = 0; i < 2 * kCount; i++) {
    int32_t place[2] = {};
#pragma unroll
    for (int a = 0; a < kMostAxes; a++) {
      const int32_t key = of_key(own_steps[a], i / 2, lane % 4 * 2 + i % 2), reach = bias.reach[a];
#pragma unroll
      for (int r = 0; r < 2; r++) place[r] += (min(max(steps[r][a] - key, -reach), reach) + reach) * bias.stride[a];
    }
#pragma unroll
    for (int r = 0; r < 2; r++) scores[i / 2][2 * r + i % 2] += table[r][place[r]];
  }
}

// Two neighbouring columns of a row of factors, 0 where there are none. Finite ones beyond TF32 become its largest: as
// infinities they would be NaN where the other factor is 0.
__device__ inline void load_factors(uint32_t (&to)[2], const Bias& bias, const float* row, int32_t column) {
  float factors[2] = {};
  if (row && column < bias.columns) {
    if (bias.aligned) {
      const float2 both = *reinterpret_cast<const float2*>(row + column);
      factors[0] = both.x;
      factors[1] = both.y;
    } else {
      factors[0] = row[column];
      if (column + 1 < bias.columns) factors[1] = row[column + 1];
    }
  }
#pragma unroll
  for (int c = 0; c < 2; c++) {
    const float most = fminf(fmaxf(factors[c], -kMostTf32), kMostTf32);
    to[c] = __float_as_uint(fabsf(factors[c]) < __builtin_huge_valf() ? most : factors[c]);
  }
}

// Three products of TF32 straight into the scores, which are scaled and capped already: nothing is to be divided by the
// scale, and any float may be a factor. The order in which a product sums up is free, so that each lane reads two
// columns that follow each other, and all lanes of a warp whole sectors, mostly of the first-level cache. All rows of a
// tile have the same keys' factors.
template <int kCount>
__device__ inline void add_low_rank(float (&scores)[kCount][4], const Bias& bias, const BiasedRows& rows,
                                    int32_t own_key, int32_t lane) {
#pragma unroll 1
  for (int32_t first = 0; first < bias.columns; first += 8) {
    const int32_t column = first + lane % 4 * 2;
    uint32_t q[2][2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      load_factors(q[r], bias, row_of(bias.q, rows.batch, rows.head[r], rows.query[r]), column);
    }
    const uint32_t operand[4] = {q[0][0], q[1][0], q[0][1], q[1][1]};
    const Left<3> a = left<Element::kFloat32, 3>(operand);
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      const int32_t key = of_key(own_key, i, lane / 4);
      const float* const row = key < 0 ? nullptr : row_of(bias.k, rows.batch, rows.head[0], rows.first_key + key);
      uint32_t k[2];
      load_factors(k, bias, row, column);
      a.template multiply_by<Element::kFloat32>(scores[i], k[0], k[1]);
    }
  }
}

// Adds a bias to scores. `key_of` says which key a column has, -1 where it has none.
//
// Chunks take turns in the first registers, since code for all of them would be most of a kernel's, and take as long to
// compile.
template <int kColumns, typename KeyOf>
__device__ inline void add_bias(float (&scores)[kColumns][4], const Problem& problem, const Bias& bias,
                                const BiasedRows& rows, const KeyOf& key_of, int32_t lane) {
  constexpr int kCount = kChunk<kColumns>;
  static_assert(kColumns % kCount == 0);
#pragma unroll 1
  for (int32_t first = 0; first < 8 * kColumns; first += 8 * kCount) {
    const int32_t own_key = key_of(first + lane);
    float chunk[kCount][4];
#pragma unroll
    for (int i = 0; i < 4 * kCount; i++) chunk[i / 4][i % 4] = scores[i / 4][i % 4];
    switch (bias.kind) {
      case BiasKind::kAlibi: add_alibi(chunk, bias, problem.heads, rows, own_key, lane); break;
      case BiasKind::kDistance: add_distance(chunk, bias, rows, own_key, lane); break;
      case BiasKind::kRelative: add_relative(chunk, bias, rows, own_key, lane); break;
      default: add_low_rank(chunk, bias, rows, own_key, lane);
    }
#pragma unroll
    for (int i = 0; i < 4 * (kColumns - kCount); i++) scores[i / 4][i % 4] = scores[kCount + i / 4][i % 4];
#pragma unroll
    for (int i = 0; i < 4 * kCount; i++) scores[kColumns - kCount + i / 4][i % 4] = chunk[i / 4][i % 4];
  }
}

}  // namespace na::cuda
