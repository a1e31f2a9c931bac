// Which keys matter to a set of queries: the products of rows.h, of which the largest is kept. Included once by each
// instruction set.
#pragma once

#include "cpu/executor/rows.h"

namespace na::cpu {
namespace {

template <int kType>
void best_of_type(const BestScores& wanted) {
  const int pitch = packed_pitch(wanted.head_dim);
  for (int query = 0; query < wanted.query_count; query++) {
    for (int d = 0; d < wanted.head_dim; d += kPair) {
      float* to = wanted.packed + static_cast<int64_t>(query) * pitch + d;
      const Pair pair = load_pair<kType, kWords<kType>>(wanted.queries[query], d, wanted.head_dim - d);
      store(to, pair.first);
      store(to + kWidth, pair.second);
    }
  }
  for (int key = 0; key < wanted.key_count; key += kStrip) {
    Vector best[kStrip / kWidth];
    for (Vector& vector : best) vector = broadcast(-kInfinity);
    by_queries<kTogether>(0, wanted.query_count, [&](auto together, int query) {
      constexpr int kCount = decltype(together)::kCount;
      float scores[kTogether * kStrip];
      score_queries<kType, kCount>(wanted.keys + key, 0, kStrip, wanted.packed + static_cast<int64_t>(query) * pitch,
                                   pitch, wanted.head_dim, scores, kStrip);
      for (int i = 0; i < kCount; i++) {
        for (int v = 0; v < kStrip / kWidth; v++) best[v] = larger(load(scores + i * kStrip + v * kWidth), best[v]);
      }
    });
    for (int v = 0; v < kStrip / kWidth; v++) store(wanted.best + key + v * kWidth, best[v]);
  }
}

void best_scores(const BestScores& wanted) {
  if (wanted.dtype == NA_FLOAT32) return best_of_type<NA_FLOAT32>(wanted);
  if (wanted.dtype == NA_FLOAT16) return best_of_type<NA_FLOAT16>(wanted);
  best_of_type<NA_BFLOAT16>(wanted);
}

}  // namespace
}  // namespace na::cpu
