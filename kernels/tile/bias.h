// Biases of low rank and in closed form, added in float32 to the scaled and capped scores of a tile. Dense ones are
// added where scores are modified, see score.h.
#pragma once

#include "attention/problem.h"

namespace na::cuda {

// The query of a row. `position` counts the keys of its sequence; `token` all queries, and exists.
struct BiasQuery {
  int64_t token;
  int32_t position, head;
};

// 0, which the compiler does not know. What is computed from it inside of a loop is computed anew each time: for all
// scores of a thread at once, keys and offsets would take more registers than there are.
__device__ inline int32_t fresh_zero() {
  int32_t zero = 0;
  asm volatile("" : "+r"(zero));
  return zero;
}

__device__ inline int32_t quotient(Divisor divisor, int32_t n) {
  return static_cast<int32_t>(__umulhi(static_cast<uint32_t>(n) * 2, divisor.multiplier) >> divisor.shift);
}

// Press et al. 2022: 2^(-8 (h + 1) / n) for n heads; those that exceed a power of two take every second slope of the
// next one.
__device__ inline float default_slope(int32_t heads, int32_t head) {
  const int32_t power = 1 << (31 - __clz(heads));
  const float eighth = head < power ? static_cast<float>(head + 1) : static_cast<float>(head - power) + 0.5f;
  return exp2f(-8 * eighth / static_cast<float>(power));
}

template <int kColumns, typename KeyOf>
__device__ inline void add_alibi(float (&scores)[kColumns][4], int r, const Problem& problem, const Bias& bias,
                                 const BiasQuery& query, const KeyOf& key_of) {
  const float slope = bias.data ? bias.data[query.head * bias.head] : default_slope(problem.heads, query.head);
  const int32_t zero = fresh_zero();
#pragma unroll
  for (int i = 0; i < 2 * kColumns; i++) {
    // Exact up to 2^24 tokens.
    const float distance = fabsf(static_cast<float>(query.position - key_of(i, zero)));
    scores[i / 2][2 * r + i % 2] -= slope * distance;
  }
}

// Adds term(own, other) for each column of the factors of the query and of a key. One column after the other, so that
// few registers are needed; each is read from memory for each score.
template <int kColumns, typename KeyOf, typename Term>
__device__ inline void add_columns(float (&scores)[kColumns][4], int r, const Bias& bias, int32_t batch,
                                   const BiasQuery& query, int32_t first_key, const KeyOf& key_of, const Term& term) {
  const Factors &q = bias.q, &k = bias.k;
  const float* mine = q.data + batch * q.batch + query.head * q.head + query.token * q.token;
  const float* others = k.data + batch * k.batch + query.head * k.head + first_key * k.token;
#pragma unroll 1
  for (int32_t c = 0; c < bias.columns; c++, mine += q.column, others += k.column) {
    const float own = *mine;
    const int32_t zero = fresh_zero();
#pragma unroll
    for (int i = 0; i < 2 * kColumns; i++) {
      float& score = scores[i / 2][2 * r + i % 2];
      score = term(own, others[key_of(i, zero) * k.token], score);
    }
  }
}

template <int kColumns, typename KeyOf>
__device__ inline void add_distance(float (&scores)[kColumns][4], int r, const Bias& bias, int32_t batch,
                                    const BiasQuery& query, int32_t first_key, const KeyOf& key_of) {
  const int64_t at = batch * bias.batch + query.head * bias.head + query.token * bias.query;
  const float weight = bias.data ? bias.data[at] : 1.0f;
  add_columns(scores, r, bias, batch, query, first_key, key_of, [&](float own, float other, float score) {
    const float apart = own - other;
    return score - weight * (apart * apart);
  });
}

// Entries of a table for differences of positions, cut off at its ends.
template <int kColumns, typename KeyOf>
__device__ inline void add_relative(float (&scores)[kColumns][4], int r, const Bias& bias, const BiasQuery& query,
                                    const KeyOf& key_of) {
  const float* const table = bias.data + query.head * bias.head;
  const RelativeAxes& axes = bias.axes;
  int32_t own[kRelativeAxes], flat = axes.single ? query.position : static_cast<int32_t>(query.token);
#pragma unroll
  for (int a = kRelativeAxes - 1; a >= 0; a--) {
    const int32_t x = a > 0 ? flat % axes.extent[a] : flat, step = axes.step[a];
    if (a > 0) flat /= axes.extent[a];
    // Positions before the first key are below 0.
    own[a] = (x >= 0 ? x / step : -((step - 1 - x) / step)) + axes.reach[a];
  }
#pragma unroll
  for (int i = 0; i < 2 * kColumns; i++) {
    const int32_t zero = fresh_zero();
    const RelativeAxes& again = (&bias)[zero].axes;  // read anew for each key, which takes no registers in between
    int32_t rest = key_of(i, zero), place = 0;       // backends count elements of a table in 32 bits
#pragma unroll
    for (int a = kRelativeAxes - 1; a >= 0; a--) {
      int32_t y = rest;
      if (a > 0) {
        rest = quotient(again.by_extent[a], rest);
        y -= rest * again.extent[a];
      }
      y = quotient(again.by_step[a], y);
      place += min(max(own[a] - y, 0), 2 * again.reach[a]) * again.stride[a];
    }
    scores[i / 2][2 * r + i % 2] += table[place];
  }
}

// Adds a bias that is not dense to a thread's row r. key_of(i, zero) is the key of scores[i / 2][2 * r + i % 2],
// counted from `first_key`, the first one of the sequence; it exists, also where the score is to be masked. It is to be
// computed from `zero`, see above.
template <int kColumns, typename KeyOf>
__device__ inline void add_formula(float (&scores)[kColumns][4], int r, const Problem& problem, const Bias& bias,
                                   int32_t batch, const BiasQuery& query, int32_t first_key, const KeyOf& key_of) {
  if (bias.kind == BiasKind::kAlibi) {
    add_alibi(scores, r, problem, bias, query, key_of);
  } else if (bias.kind == BiasKind::kLowRank) {
    add_columns(scores, r, bias, batch, query, first_key, key_of,
                [](float own, float other, float score) { return score + own * other; });
  } else if (bias.kind == BiasKind::kDistance) {
    add_distance(scores, r, bias, batch, query, first_key, key_of);
  } else {
    add_relative(scores, r, bias, query, key_of);
  }
}

}  // namespace na::cuda
