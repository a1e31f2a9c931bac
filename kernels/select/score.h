// Scores of choices: the largest product of a row of keys with any of the queries. A warp has two rows of keys at a
// time, its lanes have their columns.
#pragma once

#include "select/choices.h"

namespace na::cuda {

constexpr int kScoreWarps = 8;
constexpr int kColumnVectors = 16;  // of 32 columns: twice the most that keys have

constexpr float kNoScore = -__builtin_huge_valf();

// A row of keys: column 32 i + lane of each i.
struct KeyColumns {
  float at[kColumnVectors];

  __device__ void load(const ElementRows& rows, int64_t row, int32_t features, int lane) {
#pragma unroll
    for (int i = 0; i < kColumnVectors; i++) at[i] = 32 * i + lane < features ? rows.read(row, 32 * i + lane) : 0;
  }
};

struct Pair {
  float left, right;

  __device__ void raise(const Pair& by) {
    left = fmaxf(left, by.left);
    right = fmaxf(right, by.right);
  }
};

// Half of the lanes sum up the one product, half the other. What is no number counts for nothing.
__device__ inline Pair best_products(const float* queries, int32_t count, int32_t pitch, const KeyColumns& left,
                                     const KeyColumns& right, int lane) {
  const bool upper = lane >= 16;
  float best = kNoScore;
#pragma unroll 1
  for (int32_t n = 0; n < count; n++, queries += pitch) {
    float a = 0, b = 0;
#pragma unroll
    for (int i = 0; i < kColumnVectors; i++) {
      if (32 * i >= pitch) break;
      const float x = queries[32 * i + lane];
      a += x * left.at[i];
      b += x * right.at[i];
    }
    float sum = upper ? b : a;
    sum += __shfl_xor_sync(kAllLanes, upper ? a : b, 16);
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (sum > best) best = sum;
  }
  return {__shfl_sync(kAllLanes, best, 0), __shfl_sync(kAllLanes, best, 16)};
}

// For each head of the pattern: a chunk finds its best key by itself, going down into the better half.
__device__ inline float descend(const Selection& a, const WantedRow& row, const BlockRange& chunk, const float* queries,
                                int lane) {
  const int32_t count = row.query_count(a);
  float best = kNoScore;
#pragma unroll 1
  for (int32_t head = 0; head < a.heads; head++, queries += int64_t{a.queries_room} * a.pitch) {
    const int64_t kv_head = (row.pattern * a.heads + head) / a.group;
    int64_t begin = chunk.begin, end = chunk.end;
#pragma unroll 1
    do {
      const int64_t middle = (begin + end) / 2;
      const int64_t left_end = max(middle, begin + 1), right_begin = min(middle, end - 1);
      KeyColumns left, right;
      left.load(a.k, a.key_row(row.batch, a.first ? begin : (begin + left_end) / 2, kv_head), a.features, lane);
      right.load(a.k, a.key_row(row.batch, a.first ? right_begin : (right_begin + end) / 2, kv_head), a.features, lane);
      const Pair products = best_products(queries, count, a.pitch, left, right, lane);
      best = fmaxf(best, fmaxf(products.left, products.right));
      if (products.left >= products.right) {
        end = left_end;
      } else {
        begin = right_begin;
      }
    } while (end - begin > 1);
  }
  return best;
}

// Calls each(queries, left, right) for every head of a pattern, with two rows of k, which may be the same.
template <typename Each>
__device__ inline void each_head(const Selection& a, const WantedRow& row, int64_t left_token, int64_t right_token,
                                 const float* queries, int lane, const Each& each) {
  KeyColumns left, right;
  int32_t loaded = -1;
#pragma unroll 1
  for (int32_t head = 0; head < a.heads; head++, queries += int64_t{a.queries_room} * a.pitch) {
    const int32_t kv_head = (row.pattern * a.heads + head) / a.group;
    if (kv_head != loaded) {
      left.load(a.k, a.key_row(row.batch, left_token, kv_head), a.features, lane);
      right.load(a.k, a.key_row(row.batch, right_token, kv_head), a.features, lane);
      loaded = kv_head;
    }
    each(queries, left, right);
  }
}

__device__ inline Pair compare(const Selection& a, const WantedRow& row, int64_t left_token, int64_t right_token,
                               const float* queries, int lane) {
  const int32_t count = row.query_count(a);
  Pair best{kNoScore, kNoScore};
  each_head(a, row, left_token, right_token, queries, lane,
            [&](const float* own, const KeyColumns& left, const KeyColumns& right) {
              best.raise(best_products(own, count, a.pitch, left, right, lane));
            });
  return best;
}

// A warp has a chunk, or two choices that follow each other. ptxas would rather spill than have one block less on a
// multiprocessor.
__global__ void __launch_bounds__(32 * kScoreWarps, 1) score_kernel(const __grid_constant__ Selection a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto local = static_cast<int64_t>(blockIdx.x / static_cast<uint32_t>(a.groups));
  const auto group = static_cast<int32_t>(blockIdx.x % static_cast<uint32_t>(a.groups));
  const int32_t unit = group * kScoreWarps + static_cast<int32_t>(threadIdx.x) / 32;
  const WantedRow row(a, local);
  if (!row.searched) return;
  const Choices choices(a, row, local);
  const float* const queries = a.queries + local * a.heads * a.queries_room * a.pitch;
  uint32_t* const scores = a.scores + local * a.scores_room;
  if (a.selector == NA_SELECT_HIP) {
    if (unit >= choices.count) return;
    const BlockRange chunk = choices[unit];
    uint32_t key = kAbsent;
    if (chunk.begin < chunk.end) {
      // Where all are kept nobody asks for their scores.
      key = choices.count <= row.keep(a) ? kPresent : key_of(descend(a, row, chunk, queries, lane));
    }
    if (lane == 0) scores[unit] = key;
    return;
  }
  const int32_t n = 2 * unit;
  if (n >= choices.count) return;
  const int64_t token = choices.token_of(choices[n]);
  const BlockRange next = n + 1 < choices.count ? choices[n + 1] : BlockRange{0, 0};
  const bool two = next.begin < next.end;
  const Pair best = compare(a, row, token, two ? choices.token_of(next) : token, queries, lane);
  if (lane > 0) return;
  scores[n] = key_of(best.left);
  if (n + 1 < choices.count) scores[n + 1] = two ? key_of(best.right) : kAbsent;
}

// Of one column of queries that follow each other, their mean, or what is largest or least of it.
__device__ inline float pooled_queries(const Selection& a, const WantedRow& row, int64_t head, int32_t from,
                                       int32_t until, int32_t column) {
  constexpr float kInfinity = __builtin_huge_valf();
  float sum = 0, most = -kInfinity, least = kInfinity;
  for (int32_t query = from; query < until; query++) {
    const float value = a.q[a.q.row(row.batch, query, head) + column];
    sum += value;
    if (value > most) most = value;
    if (value < least) least = value;
  }
  if (a.together == 1) return sum;
  if (a.query_pooling == NA_POOL_MAX) return most;
  if (a.query_pooling == NA_POOL_MIN) return least;
  return rounded(sum / static_cast<float>(until - from), a.q.dtype);
}

// What is compared with keys: queries, or what is made of some that follow each other, in float32. With bounds,
// positive parts meet the maxima and negative ones the minima.
__global__ void __launch_bounds__(32 * kScoreWarps) queries_kernel(const __grid_constant__ Selection a) {
  const int64_t local = blockIdx.x / static_cast<uint32_t>(a.heads);
  const WantedRow row(a, local);
  if (!row.searched) return;
  const int64_t head = int64_t{row.pattern} * a.heads + blockIdx.x % static_cast<uint32_t>(a.heads);
  const int32_t first = row.first_query(a), end = row.end_query(a);
  float* const to = a.queries + int64_t{blockIdx.x} * a.queries_room * a.pitch;
  const int32_t all = row.query_count(a) * a.pitch;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < all; i += 32 * kScoreWarps) {
    const int32_t feature = i % a.pitch, from = first + i / a.pitch * a.together, until = min(from + a.together, end);
    float value = 0;
    if (feature < a.features) {
      const bool least = feature >= a.columns;
      const int32_t column = least ? feature - a.columns : feature;
      value = pooled_queries(a, row, head, from, until, column);
      if (a.bounds && (least ? value > 0 : value < 0)) value = 0;
    }
    to[i] = value;
  }
}

}  // namespace na::cuda
