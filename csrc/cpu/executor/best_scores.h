// Which keys matter to a set of queries: of the products of a key with all of them the largest. Many queries are lanes,
// as in tile.h, few are rows, as in rows.h. Included once by each instruction set.
#pragma once

#include "cpu/executor/rows.h"

namespace na::cpu {
namespace {

// Queries up to which vectors along headDim are faster than lanes that stay empty.
constexpr int kFewQueries = kWidth / 4;

// Vectors of lanes and keys whose sums are in registers at once.
constexpr int kBestVectors = kWidth == 16 ? 4 : 2, kBestKeys = 4;

// How many keys before they are needed they are fetched.
constexpr int kKeysAhead = 2 * kStrip;

// To the second cache: they are more than the first one fetches at once.
NA_INLINE void fetch_keys(const BestScores& wanted, int first, int count) {
  const int bytes = wanted.head_dim * (wanted.dtype == NA_FLOAT32 ? 4 : 2);
  for (int key = first; key < smaller(first + count, wanted.key_count); key++) {
    for (int at = 0; at < bytes; at += 64) __builtin_prefetch(wanted.keys[key] + at, 0, 2);
  }
}

// The largest element of each of kWidth vectors, in order.
NA_INLINE Vector maxima_of(Vector (&of)[kWidth]) {
  for (int count = kWidth; count > 1; count /= 2) {
    for (int i = 0; i < count / 2; i++) {
      of[i] = larger(zip_low(of[i], of[i + count / 2]), zip_high(of[i], of[i + count / 2]));
    }
  }
  return of[0];
}

// The last query again where there is none: it changes no maximum.
NA_INLINE const char* query_of(const BestScores& wanted, int lane) {
  return wanted.queries[smaller(lane, wanted.query_count - 1)];
}

// Raises the maxima of a strip's keys, in float32 rows, by the products with kUsed vectors of lanes.
template <int kUsed>
NA_INLINE void raise_by_lanes(const float* keys, int pitch, const float* lanes, int head_dim, Vector* top) {
  for (int key = 0; key < kStrip; key += kBestKeys) {
    Vector sum[kBestKeys][kUsed] = {};
    const float* row = keys + key * pitch;
    for (int d = 0; d < head_dim; d++) {
      Vector query[kUsed];
      for (int u = 0; u < kUsed; u++) query[u] = load(lanes + (u * head_dim + d) * kWidth);
      for (int r = 0; r < kBestKeys; r++) {
        const Vector element = broadcast(row[r * pitch + d]);
        for (int u = 0; u < kUsed; u++) sum[r][u] = multiply_add(element, query[u], sum[r][u]);
      }
    }
    for (int r = 0; r < kBestKeys; r++) {
      for (int u = 0; u < kUsed; u++) top[key + r] = larger(sum[r][u], top[key + r]);
    }
  }
}

template <int kUsed>
NA_INLINE void raise_by_all_lanes(const float* keys, int pitch, const float* lanes, int vectors, int head_dim,
                                  Vector* top) {
  for (; vectors >= kUsed; vectors -= kUsed) {
    raise_by_lanes<kUsed>(keys, pitch, lanes, head_dim, top);
    lanes += kUsed * head_dim * kWidth;
  }
  if constexpr (kUsed > 1) raise_by_all_lanes<kUsed / 2>(keys, pitch, lanes, vectors, head_dim, top);
}

// Queries as [vector of lanes][d][lane].
void pack_lanes(const BestScores& wanted) {
  for (int first = 0; first < wanted.query_count; first += kWidth) {
    float* to = wanted.packed + static_cast<int64_t>(first) * wanted.head_dim;
    for (int d = 0; d < wanted.head_dim; d += kWidth) {
      Vector square[kWidth];
      for (int i = 0; i < kWidth; i++) {
        square[i] = load_elements(wanted.dtype, query_of(wanted, first + i), d, wanted.head_dim - d);
      }
      transpose(square);
      for (int i = 0; i < kWidth && d + i < wanted.head_dim; i++) store(to + (d + i) * kWidth, square[i]);
    }
  }
}

void best_of_lanes(const BestScores& wanted) {
  const int vectors = (wanted.query_count + kWidth - 1) / kWidth, pitch = packed_pitch(wanted.head_dim);
  float* const rows = wanted.packed + static_cast<int64_t>(vectors) * kWidth * wanted.head_dim;
  for (int key = 0; key < wanted.key_count; key += kStrip) {
    fetch_keys(wanted, key + kKeysAhead, kStrip);
    for (int i = 0; i < kStrip; i++) widen(wanted.dtype, wanted.keys[key + i], wanted.head_dim, rows + i * pitch);
    Vector top[kStrip];
    for (Vector& vector : top) vector = broadcast(-kInfinity);
    raise_by_all_lanes<kBestVectors>(rows, pitch, wanted.packed, vectors, wanted.head_dim, top);
    for (int v = 0; v < kStrip; v += kWidth) {
      Vector some[kWidth];
      for (int i = 0; i < kWidth; i++) some[i] = top[v + i];
      store(wanted.best + key + v, maxima_of(some));
    }
  }
}

template <int kType>
void pack_rows(const BestScores& wanted) {
  for (int query = 0; query < wanted.query_count; query++) {
    for (int d = 0; d < wanted.head_dim; d += kPair) {
      float* to = wanted.packed + static_cast<int64_t>(query) * packed_pitch(wanted.head_dim) + d;
      const Pair pair = load_pair<kType, kWords<kType>>(wanted.queries[query], d, wanted.head_dim - d);
      store(to, pair.first);
      store(to + kWidth, pair.second);
    }
  }
}

template <int kType>
void best_of_rows(const BestScores& wanted) {
  const int pitch = packed_pitch(wanted.head_dim);
  for (int key = 0; key < wanted.key_count; key += kStrip) {
    Vector best[kStrip / kWidth];
    for (Vector& vector : best) vector = broadcast(-kInfinity);
    by_queries<kTogether>(0, wanted.query_count, [&](auto together, int query) {
      constexpr int kCount = decltype(together)::kCount;
      float scores[kTogether * kStrip];
      constexpr int kKeys = kWidth / kCount;
      for (int at = 0; at < kStrip; at += kKeys) {
        // At the pace at which they are read.
        if (query == 0) fetch_keys(wanted, key + at + kKeysAhead, kKeys);
        score_keys<kType, kCount>(wanted.keys + key + at, 0, wanted.packed + static_cast<int64_t>(query) * pitch, pitch,
                                  wanted.head_dim, scores + at, kStrip);
      }
      for (int i = 0; i < kCount; i++) {
        for (int v = 0; v < kStrip / kWidth; v++) best[v] = larger(load(scores + i * kStrip + v * kWidth), best[v]);
      }
    });
    for (int v = 0; v < kStrip / kWidth; v++) store(wanted.best + key + v * kWidth, best[v]);
  }
}

void pack_best(const BestScores& wanted) {
  if (wanted.query_count > kFewQueries) return pack_lanes(wanted);
  if (wanted.dtype == NA_FLOAT32) return pack_rows<NA_FLOAT32>(wanted);
  if (wanted.dtype == NA_FLOAT16) return pack_rows<NA_FLOAT16>(wanted);
  pack_rows<NA_BFLOAT16>(wanted);
}

void best_scores(const BestScores& wanted) {
  if (wanted.query_count > kFewQueries) return best_of_lanes(wanted);
  if (wanted.dtype == NA_FLOAT32) return best_of_rows<NA_FLOAT32>(wanted);
  if (wanted.dtype == NA_FLOAT16) return best_of_rows<NA_FLOAT16>(wanted);
  best_of_rows<NA_BFLOAT16>(wanted);
}

}  // namespace
}  // namespace na::cpu
