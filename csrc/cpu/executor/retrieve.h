// The exact scores and sums of rows of keys and values. Included once by each instruction set.
#pragma once

#include "cpu/executor/convert.h"
#include "cpu/executor/problem.h"
#include "cpu/executor/rows.h"
#include "cpu/executor/vector.h"
#include "cpu/executor/widen.h"

namespace na::cpu {
namespace {

constexpr int kBytes = -1;  // besides the dtypes: rows of int8

template <int kType>
NA_INLINE Vector load_row(const char* row, int at, int count) {
  if constexpr (kType == kBytes) {
    if (count >= kWidth) return widen_bytes(row + at);
    char rest[kWidth] = {};
    __builtin_memcpy(rest, row + at, static_cast<size_t>(count));
    return widen_bytes(rest);
  } else {
    return load_elements<kType>(row, at, count);
  }
}

NA_INLINE float unit_of(const RowList& list, int64_t row) {
  float unit = 1;
  if (list.int8) __builtin_memcpy(&unit, list.rows[row] + list.columns, sizeof(unit));
  return unit;
}

// Rows are anywhere in memory: they are fetched some ahead.
NA_INLINE void fetch_row(const RowList& list, int64_t row) {
  if (row >= list.count) return;
  const int bytes = list.int8 ? list.columns + 4 : list.columns * (list.dtype == NA_FLOAT32 ? 4 : 2);
  for (int at = 0; at < bytes; at += 64) __builtin_prefetch(list.rows[row] + at);
}

template <int kType>
void scores_of_type(const RowList& list, const float* query, float* scores) {
  for (int64_t first = 0; first < list.count; first += kWidth) {
    Vector sum[kWidth] = {};
    const char* row[kWidth];
    for (int i = 0; i < kWidth; i++) {
      row[i] = list.rows[first + i < list.count ? first + i : list.count - 1];
      fetch_row(list, first + i + kWidth);
    }
    int d = 0;
    for (; d + kWidth <= list.columns; d += kWidth) {
      const Vector column = load(query + d);
      for (int i = 0; i < kWidth; i++) sum[i] = multiply_add(load_row<kType>(row[i], d, kWidth), column, sum[i]);
    }
    if (d < list.columns) {
      for (int i = 0; i < kWidth; i++) {
        sum[i] = multiply_add(load_row<kType>(row[i], d, list.columns - d), load(query + d), sum[i]);
      }
    }
    const Vector all = sums_of(sum);
    for (int i = 0; i < kWidth && first + i < list.count; i++) scores[first + i] = all[i] * unit_of(list, first + i);
  }
}

template <int kType>
void sums_of_type(const RowList& list, const float* weights, float* sums) {
  for (int64_t row = 0; row < list.count; row++) {
    fetch_row(list, row + 8);
    const Vector weight = broadcast(weights[row] * unit_of(list, row));
    for (int d = 0; d < list.columns; d += kWidth) {
      store(sums + d, multiply_add(load_row<kType>(list.rows[row], d, list.columns - d), weight, load(sums + d)));
    }
  }
}

// The float at a place in their order: from -infinity on.
NA_INLINE float float_at(int64_t place) {
  const auto bits = static_cast<int32_t>(place < 0 ? place ^ 0x7fffffff : place);
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// The least value that is not below x. There is one.
float least_from(const float* values, int64_t count, float x) {
  Vector lanes = broadcast(kInfinity);
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vector some = load(values + i);
    lanes = select((some >= x) & (some < lanes), some, lanes);
  }
  float least = kInfinity;
  for (int lane = 0; lane < kWidth; lane++) least = lanes[lane] < least ? lanes[lane] : least;
  for (; i < count; i++) least = values[i] >= x && values[i] < least ? values[i] : least;
  return least;
}

// The largest value that `wanted` of the values reach, of which there are as many or more: found by halving what it may
// be, without a jump that depends on a value.
float reached_by(const float* values, int64_t count, int64_t wanted) {
  int64_t low = -0x7f800001, high = 0x7f800001;  // -infinity, which all reach, and what none does
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const float x = float_at(middle);
    int64_t i = 0, reaching = 0;
    for (; i + kWidth <= count; i += kWidth) reaching += __builtin_popcount(not_below(load(values + i), broadcast(x)));
    for (; i < count; i++) reaching += values[i] >= x;
    if (reaching == wanted) return least_from(values, count, x);
    (reaching >= wanted ? low : high) = middle;
  }
  return float_at(low);
}

void score_list(const RowList& list, const float* query, float* scores) {
  if (list.int8) return scores_of_type<kBytes>(list, query, scores);
  if (list.dtype == NA_FLOAT32) return scores_of_type<NA_FLOAT32>(list, query, scores);
  if (list.dtype == NA_FLOAT16) return scores_of_type<NA_FLOAT16>(list, query, scores);
  scores_of_type<NA_BFLOAT16>(list, query, scores);
}

void add_list(const RowList& list, const float* weights, float* sums) {
  if (list.int8) return sums_of_type<kBytes>(list, weights, sums);
  if (list.dtype == NA_FLOAT32) return sums_of_type<NA_FLOAT32>(list, weights, sums);
  if (list.dtype == NA_FLOAT16) return sums_of_type<NA_FLOAT16>(list, weights, sums);
  sums_of_type<NA_BFLOAT16>(list, weights, sums);
}

}  // namespace
}  // namespace na::cpu
