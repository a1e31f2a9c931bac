// From products to scores: scale, cap, biases and mask, on the accumulator of a tile.
//
// Accumulators of mma.sync and of wgmma alike: scores[j][2 * r + c] is row r of the thread's two (lane / 4 of the
// warp's sixteen, and eight further on) and column 8 * j + 2 * (lane % 4) + c.
#pragma once

#include "tile/band.h"
#include "tile/bias.h"
#include "tile/grid.h"

namespace na::cuda {

constexpr float kLog2E = 1.44269504f, kInfinity = __builtin_huge_valf();

// What a thread's row is.
struct Row {
  int32_t query;  // of the sequence; may lie beyond the last one
  int32_t head;
};

// Whether scores need more than a positive scale: then they are changed one by one before the softmax, else the scale
// enters with the exponent.
__host__ __device__ inline bool modifies_scores(const Problem& problem) {
  return problem.softcap > 0 || problem.bias_count > 0 || !(problem.scale > 0) || masks_further(problem);
}

template <int kColumns>
__device__ inline void scale_and_cap(float (&scores)[kColumns][4], const Problem& problem) {
#pragma unroll
  for (int i = 0; i < 4 * kColumns; i++) scores[i / 4][i % 4] *= problem.scale;
  if (problem.softcap > 0) {
#pragma unroll
    for (int i = 0; i < 4 * kColumns; i++) {
      float& score = scores[i / 4][i % 4];
      score = problem.softcap * tanhf(score / problem.softcap);
    }
  }
}

// Products become scores. They stay in natural units until the softmax has subtracted their maximum: masks are often
// made of the lowest float, which a factor of log2(e) would make -infinity, a key that is not there. `kComputes`: some
// biases may have to be computed.
template <bool kComputes, int kColumns>
__device__ inline void modify(float (&scores)[kColumns][4], const Problem& problem, const Sequence& sequence,
                              const Row (&rows)[2], int32_t first_key, int32_t lane) {
  scale_and_cap(scores, problem);
  const int32_t own_key = first_key + lane % 4 * 2;
#pragma unroll 1
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
    if constexpr (kComputes) {
      if (bias.kind != BiasKind::kDense) {
        BiasedRows biased = {sequence.batch, sequence.first_key, {}, {}, {}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
          const int32_t query = min(rows[r].query, sequence.queries - 1);
          biased.head[r] = rows[r].head;
          biased.query[r] = sequence.first_query + query;
          biased.position[r] = sequence.position(query);
        }
        const auto key_of = [&](int32_t column) {
          const int32_t key = first_key + column;
          return key < sequence.keys ? key : -1;
        };
        add_bias(scores, problem, bias, biased, key_of, lane);
        continue;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const auto place = place_of<int64_t>(bias, rows[r].head);
      if (place < 0) continue;
      const int64_t query = sequence.first_query + min(rows[r].query, sequence.queries - 1);
      const float* from = bias.data + sequence.batch * bias.batch + place * bias.head + query * bias.query +
                          (sequence.first_key + own_key) * bias.key;
#pragma unroll
      for (int i = 0; i < kColumns; i++, from += 8 * bias.key) {
        const int32_t key = own_key + i * 8;
        if (key < sequence.keys) scores[i][2 * r] += from[0];
        if (key + 1 < sequence.keys) scores[i][2 * r + 1] += from[bias.key];
      }
    }
  }
}

// Scores of keys that a row does not see become -infinity.
template <int kColumns>
__device__ inline void mask(float (&scores)[kColumns][4], const Problem& problem, const Sequence& sequence,
                            const Row (&rows)[2], int32_t first_key, int32_t lane) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int32_t position = sequence.position(rows[r].query);
    const int32_t from = KeyTiles::from(problem, position), to = min(KeyTiles::to(problem, position), sequence.keys);
#pragma unroll
    for (int i = 0; i < 2 * kColumns; i++) {
      const int32_t key = first_key + i / 2 * 8 + lane % 4 * 2 + i % 2;
      if (key < from || key >= to) scores[i / 2][2 * r + i % 2] = -kInfinity;
    }
  }
}

}  // namespace na::cuda
