// Finds rows of a mirror (core/mirror.h) that may be among the best, and the exact scores and sums of rows of keys and
// values. Included once by each instruction set.
#pragma once

#include "cpu/executor/convert.h"
#include "cpu/executor/problem.h"
#include "cpu/executor/rows.h"
#include "cpu/executor/vector.h"
#include "cpu/executor/widen.h"

namespace na::cpu {
namespace {

// How far ahead codes are fetched, in bytes: the processor itself does not look beyond a page of memory.
constexpr int kCodesAhead = 2048;

// Of each of 16 rows the sum of (code - 128) * step over all columns: exact, the same for every instruction set.
#if defined(__AVX512VNNI__)

// A step is 128 * high + low, since instructions multiply bytes only; they take codes as they are, and what 128 of each
// adds to a sum is known.
template <int kQueries>
NA_INLINE void count_steps(const uint8_t* codes, int quads, const ScanQuery* queries, int32_t (*sums)[kStrip]) {
  __m512i high[kQueries] = {}, low[kQueries] = {};
  for (int quad = 0; quad < quads; quad++) {
    __builtin_prefetch(codes + quad * 64 + kCodesAhead);
    const __m512i code = _mm512_loadu_si512(codes + quad * 64);
    for (int i = 0; i < kQueries; i++) {
      high[i] = _mm512_dpbusd_epi32(high[i], code, _mm512_set1_epi32(queries[i].high[quad]));
      low[i] = _mm512_dpbusd_epi32(low[i], code, _mm512_set1_epi32(queries[i].low[quad]));
    }
  }
  for (int i = 0; i < kQueries; i++) {
    high[i] = _mm512_sub_epi32(high[i], _mm512_set1_epi32(queries[i].high_excess));
    low[i] = _mm512_sub_epi32(low[i], _mm512_set1_epi32(queries[i].low_excess));
    _mm512_storeu_si512(sums[i], _mm512_add_epi32(_mm512_slli_epi32(high[i], 7), low[i]));
  }
}

#elif NA_WIDTH >= 8

// Codes and steps as 16 bits: sums of pairs of products, so that a row has two of them side by side.
template <int kQueries>
NA_INLINE void count_steps(const uint8_t* codes, int quads, const ScanQuery* queries, int32_t (*sums)[kStrip]) {
  constexpr int kParts = kStrip * 2 / kWidth;
  alignas(64) int32_t pairs[kStrip * 2];
#if NA_WIDTH == 16
  __m512i sum[kQueries][kParts] = {};
#else
  __m256i sum[kQueries][kParts] = {};
#endif
  for (int quad = 0; quad < quads; quad++) {
    __builtin_prefetch(codes + quad * 64 + kCodesAhead);
    for (int part = 0; part < kParts; part++) {
      const uint8_t* const from = codes + quad * 64 + part * 2 * kWidth;
#if NA_WIDTH == 16
      const __m512i bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
      const __m512i code = _mm512_sub_epi16(bytes, _mm512_set1_epi16(128));
#else
      const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      const __m256i code = _mm256_sub_epi16(bytes, _mm256_set1_epi16(128));
#endif
      for (int i = 0; i < kQueries; i++) {
        int64_t steps;
        __builtin_memcpy(&steps, queries[i].steps + quad * 4, sizeof(steps));
#if NA_WIDTH == 16
        sum[i][part] = _mm512_add_epi32(sum[i][part], _mm512_madd_epi16(code, _mm512_set1_epi64(steps)));
#else
        sum[i][part] = _mm256_add_epi32(sum[i][part], _mm256_madd_epi16(code, _mm256_set1_epi64x(steps)));
#endif
      }
    }
  }
  for (int i = 0; i < kQueries; i++) {
    __builtin_memcpy(pairs, sum[i], sizeof(pairs));
    for (int row = 0; row < kStrip; row++) sums[i][row] = pairs[2 * row] + pairs[2 * row + 1];
  }
}

#else

template <int kQueries>
NA_INLINE void count_steps(const uint8_t* codes, int quads, const ScanQuery* queries, int32_t (*sums)[kStrip]) {
  for (int i = 0; i < kQueries; i++) {
    int32_t sum[kStrip] = {};
    for (int quad = 0; quad < quads; quad++) {
      for (int row = 0; row < kStrip; row++) {
        for (int j = 0; j < 4; j++) {
          sum[row] += (codes[quad * 64 + row * 4 + j] - 128) * queries[i].steps[quad * 4 + j];
        }
      }
    }
    __builtin_memcpy(sums[i], sum, sizeof(sum));
  }
}

#endif

// A bit for each element of x that is not below y; NaN is not.
NA_INLINE uint32_t not_below(Vector x, Vector y) {
#if NA_WIDTH == 16
  return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_NLT_UQ);
#elif NA_WIDTH == 8
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, (__m256)y, _CMP_NLT_UQ)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kWidth; i++) bits |= static_cast<uint32_t>(!(x[i] < y[i])) << i;
  return bits;
#endif
}

NA_INLINE float product_of(const float* a, const float* b, int columns) {
  Vector sum = {};
  int d = 0;
  for (; d + kWidth <= columns; d += kWidth) sum = multiply_add(load(a + d), load(b + d), sum);
  float total = 0;
  for (int i = 0; i < kWidth; i++) total += sum[i];
  for (; d < columns; d++) total += a[d] * b[d];
  return total;
}

// Notes those of 16 rows whose score may be the threshold or more.
NA_INLINE void filter(const Scan& scan, int row, uint32_t counted, const int32_t* steps, float centre_score,
                      ScanQuery& query) {
  const Vector absolute = broadcast(query.absolute * scan.reach);
  float low[kStrip], high[kStrip];
  uint32_t bits = 0;
  for (int i = 0; i < kStrip; i += kWidth) {
    const Vector unit = load(scan.units + row + i);
    const Vector about = multiply_add(unit * __builtin_convertvector(load(steps + i), Vector), broadcast(query.unit),
                                      broadcast(centre_score));
    const Vector score = about + (about - about);  // infinite is no number: the exact score need not be
    const Vector margin = multiply_add(unit, broadcast(query.relative), absolute);
    store(low + i, score - margin);
    store(high + i, score + margin);
    bits |= not_below(score + margin, broadcast(query.threshold)) << i;
  }
  for (bits &= counted; bits != 0; bits &= bits - 1) {
    const int i = __builtin_ctz(bits);
    // What is no number may be anything.
    query.hits[query.count++] = {scan.first + row + i, low[i] == low[i] ? low[i] : -kInfinity,
                                 high[i] == high[i] ? high[i] : kInfinity};
  }
}

void scan_rows(const Scan& scan) {
  by_queries<4>(0, scan.query_count, [&](auto together, int first) {
    constexpr int kQueries = decltype(together)::kCount;
    ScanQuery* const queries = scan.queries + first;
    float centre_score[kQueries];
    for (int i = 0; i < kQueries; i++) centre_score[i] = product_of(scan.centre, queries[i].columns, scan.quads * 4);
    for (int row = scan.from / kStrip * kStrip; row < scan.to; row += kStrip) {
      uint32_t counted = (1u << kStrip) - 1;
      if (row < scan.from) counted &= ~0u << (scan.from - row);
      if (row + kStrip > scan.to) counted &= (1u << (scan.to - row)) - 1;
      int32_t sums[kQueries][kStrip];
      count_steps<kQueries>(scan.codes + static_cast<int64_t>(row) * scan.quads * 4, scan.quads, queries, sums);
      for (int i = 0; i < kQueries; i++) filter(scan, row, counted, sums[i], centre_score[i], queries[i]);
    }
  });
}

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
