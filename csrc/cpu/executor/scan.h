// Finds rows of a mirror (core/mirror.h) that may be among the best. Included once by each instruction set that
// multiplies bytes in a way of its own.
#pragma once

#include "cpu/executor/problem.h"
#include "cpu/executor/together.h"
#include "cpu/executor/vector.h"

namespace na::cpu {
namespace {

// How far ahead codes are fetched, in bytes: the processor itself does not look beyond a page of memory. The nearest
// cache has room for few requests at a time, too few to be read into as fast as memory can, so the next one is asked
// first.
constexpr int64_t kNear = 2048, kFar = 16384;

// What is fetched while 16 rows are scored, at the pace at which these are read.
struct Ahead {
  const uint8_t *near, *far;

  NA_INLINE void fetch(int at) const {
    __builtin_prefetch(near + at, 0, 3);
    __builtin_prefetch(far + at, 0, 2);
  }
};

// Of each of 16 rows the sum of (code - 128) * step over all columns: exact, the same for every instruction set.
#if defined(__AVX512VNNI__)

// Adds the products of four codes of each row with the same four steps. Of the intrinsic GCC makes three instructions,
// a copy of the sum, one of the steps to all rows, and this one: the loop then waits for instructions rather than for
// memory.
NA_INLINE __m512i add_products(__m512i sum, __m512i codes, const int32_t& steps) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(steps));
  return sum;
}

// A step is 128 * high + low, since instructions multiply bytes only; they take codes as they are, and what 128 of each
// adds to a sum is known.
template <int kQueries>
NA_INLINE void count_steps(const uint8_t* codes, int quads, const ScanQuery* queries, const Ahead& ahead,
                           int32_t (*sums)[kStrip]) {
  __m512i high[kQueries] = {}, low[kQueries] = {};
  for (int quad = 0; quad < quads; quad++) {
    ahead.fetch(quad * 64);
    const __m512i code = _mm512_loadu_si512(codes + quad * 64);
#pragma GCC unroll 4
    for (int i = 0; i < kQueries; i++) {
      high[i] = add_products(high[i], code, queries[i].high[quad]);
      low[i] = add_products(low[i], code, queries[i].low[quad]);
    }
  }
  for (int i = 0; i < kQueries; i++) {
    high[i] = _mm512_sub_epi32(high[i], _mm512_set1_epi32(queries[i].high_excess));
    low[i] = _mm512_sub_epi32(low[i], _mm512_set1_epi32(queries[i].low_excess));
    _mm512_storeu_si512(sums[i], _mm512_add_epi32(_mm512_slli_epi32(high[i], 7), low[i]));
  }
}

#elif NA_WIDTH == 8

// Codes and steps as 16 bits: sums of pairs of products, so that a row has two of them side by side.
template <int kQueries>
NA_INLINE void count_steps(const uint8_t* codes, int quads, const ScanQuery* queries, const Ahead& ahead,
                           int32_t (*sums)[kStrip]) {
  constexpr int kParts = kStrip * 2 / kWidth;
  alignas(32) int32_t pairs[kStrip * 2];
  __m256i sum[kQueries][kParts] = {};
  for (int quad = 0; quad < quads; quad++) {
    ahead.fetch(quad * 64);
    for (int part = 0; part < kParts; part++) {
      const uint8_t* const from = codes + quad * 64 + part * 2 * kWidth;
      const __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      const __m256i code = _mm256_sub_epi16(bytes, _mm256_set1_epi16(128));
      for (int i = 0; i < kQueries; i++) {
        int64_t steps;
        __builtin_memcpy(&steps, queries[i].steps + quad * 4, sizeof(steps));
        sum[i][part] = _mm256_add_epi32(sum[i][part], _mm256_madd_epi16(code, _mm256_set1_epi64x(steps)));
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
NA_INLINE void count_steps(const uint8_t* codes, int quads, const ScanQuery* queries, const Ahead&,
                           int32_t (*sums)[kStrip]) {
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

NA_INLINE float product_of(const float* a, const float* b, int columns) {
  Vector sum = {};
  int d = 0;
  for (; d + kWidth <= columns; d += kWidth) sum = multiply_add(load(a + d), load(b + d), sum);
  float total = 0;
  for (int i = 0; i < kWidth; i++) total += sum[i];
  for (; d < columns; d++) total += a[d] * b[d];
  return total;
}

// What rows score, and by how much that may be off.
struct Scored {
  Vector score, margin;
};

NA_INLINE Scored score_rows(const Scan& scan, int row, const int32_t* steps, float centre_score,
                            const ScanQuery& query) {
  const Vector unit = load(scan.units + row);
  const Vector about =
      multiply_add(unit * __builtin_convertvector(load(steps), Vector), broadcast(query.unit), broadcast(centre_score));
  const Vector score = about + (about - about);  // infinite is no number: the exact score need not be
  return {score, multiply_add(unit, broadcast(query.relative), broadcast(query.absolute * scan.reach))};
}

// What a row must have above the centre's score for its own to be the threshold, or what may be taken for it: less than
// that by the margin of all rows, and by how all is rounded.
NA_INLINE float needed_by(const Scan& scan, float centre_score, const ScanQuery& query) {
  const float margin = query.absolute * scan.reach;
  const float size = __builtin_fabsf(query.threshold) + __builtin_fabsf(centre_score) + margin;
  const float needed = query.threshold - centre_score - margin - size * 0x1p-20f - 0x1p-126f;
  return needed < kInfinity ? needed : -kInfinity;
}

// A bit for each of 16 rows whose score may be the threshold or more: for few it is.
NA_INLINE uint32_t may_reach(const Scan& scan, int row, const int32_t* steps, float needed, const ScanQuery& query) {
  uint32_t bits = 0;
  for (int i = 0; i < kStrip; i += kWidth) {
    const Vector count = __builtin_convertvector(load(steps + i), Vector);
    const Vector most = multiply_add(count, broadcast(query.unit), broadcast(query.slack)) * load(scan.units + row + i);
    bits |= not_below(most, broadcast(needed)) << i;
  }
  return bits;
}

// Notes those of 16 rows whose score may be the threshold or more.
NA_INLINE void note(const Scan& scan, int row, uint32_t counted, const int32_t* steps, float centre_score,
                    ScanQuery& query) {
  float low[kStrip], high[kStrip];
  uint32_t bits = 0;
  for (int i = 0; i < kStrip; i += kWidth) {
    const auto [score, margin] = score_rows(scan, row + i, steps + i, centre_score, query);
    bits |= not_below(score + margin, broadcast(query.threshold)) << i;
    store(low + i, score - margin);
    store(high + i, score + margin);
  }
  for (bits &= counted; bits != 0; bits &= bits - 1) {
    const int i = __builtin_ctz(bits);
    // What is no number may be anything.
    query.hits[query.count++] = {scan.first + row + i, low[i] == low[i] ? low[i] : -kInfinity,
                                 high[i] == high[i] ? high[i] : kInfinity};
  }
}

void scan_rows(const Scan& scan) {
  const int64_t strip = int64_t{kStrip} * scan.quads * 4, end = (scan.to + kStrip - 1) / kStrip * strip;
  // What is read so far behind a place.
  const auto behind = [&](int64_t at, int64_t distance) {
    return at + distance < end ? scan.codes + at + distance : scan.next + (at + distance - end);
  };
  by_queries<4>(0, scan.query_count, [&](auto together, int first) {
    constexpr int kQueries = decltype(together)::kCount;
    ScanQuery* const queries = scan.queries + first;
    float centre_score[kQueries], needed[kQueries];
    for (int i = 0; i < kQueries; i++) {
      centre_score[i] = product_of(scan.centre, queries[i].columns, scan.quads * 4);
      needed[i] = needed_by(scan, centre_score[i], queries[i]);
    }
    const uint8_t* head = scan.next_head;
    for (int row = scan.from / kStrip * kStrip; row < scan.to; row += kStrip) {
      for (int line = 0; line < 2 && head < scan.next; line++, head += 64) __builtin_prefetch(head, 0, 2);
      uint32_t counted = (1u << kStrip) - 1;
      if (row < scan.from) counted &= ~0u << (scan.from - row);
      if (row + kStrip > scan.to) counted &= (1u << (scan.to - row)) - 1;
      const int64_t at = row / kStrip * strip;
      int32_t sums[kQueries][kStrip];
      count_steps<kQueries>(scan.codes + at, scan.quads, queries, {behind(at, kNear), behind(at, kFar)}, sums);
      uint32_t bits[kQueries], any = 0;
      for (int i = 0; i < kQueries; i++) any |= bits[i] = may_reach(scan, row, sums[i], needed[i], queries[i]);
      if (__builtin_expect(any == 0, 1)) continue;
      for (int i = 0; i < kQueries; i++) {
        if (bits[i] != 0) note(scan, row, counted, sums[i], centre_score[i], queries[i]);
      }
    }
  });
}

}  // namespace
}  // namespace na::cpu
