// Keys and values of int8 pages, which become rows of the problem's dtype when they come to hand, all heads of a tile
// at once. Included once by each instruction set.
#pragma once

#include "cpu/executor/convert.h"
#include "cpu/executor/problem.h"

namespace na::cpu {
namespace {

NA_INLINE Vector widen_bytes(const char* from) {
#if NA_WIDTH == 16
  return (Vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif NA_WIDTH == 8
  return (Vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  Vector result;
  for (int i = 0; i < kWidth; i++) result[i] = static_cast<float>(static_cast<int8_t>(from[i]));
  return result;
#endif
}

template <int kType>
NA_INLINE void widen_row(const char* row, int columns, char* to) {
  float unit;
  __builtin_memcpy(&unit, row + columns, sizeof(unit));
  int d = 0;
  for (; d + kWidth <= columns; d += kWidth) {
    store_elements(kType, to, d, kWidth, widen_bytes(row + d) * broadcast(unit));
  }
  if (d == columns) return;
  char rest[kWidth] = {};
  __builtin_memcpy(rest, row + d, static_cast<size_t>(columns - d));
  store_elements(kType, to, d, columns - d, widen_bytes(rest) * broadcast(unit));
}

template <int kType>
void widen_rows(const Tile& tile, const char** rows, int columns, int64_t* head, char* to) {
  constexpr int64_t kBytes = kType == NA_FLOAT32 ? 4 : 2;
  const int64_t wide = columns * kBytes;
  for (int key = 0; key < tile.count; key++) {
    const char* const row = rows[key];
    rows[key] = to;
    for (int h = 0; h < tile.kv_heads; h++, to += wide) widen_row<kType>(row + h * *head, columns, to);
  }
  *head = wide;
}

template <int kType>
void widen_keys(const Problem& problem, Tile& tile) {
  widen_rows<kType>(tile, tile.k, problem.head_dim, &tile.k_head, tile.wide_k);
  widen_rows<kType>(tile, tile.v, problem.value_dim, &tile.v_head, tile.wide_v);
}

// next_keys(), of which everybody else sees rows of the problem's dtype.
NA_INLINE bool next_wide_keys(const Problem& problem, Tile& tile) {
  if (!next_keys(problem, tile)) return false;
  if (!problem.pages || !problem.pages->int8 || tile.extra) return true;
  switch (problem.dtype) {
    case NA_FLOAT32: widen_keys<NA_FLOAT32>(problem, tile); break;
    case NA_FLOAT16: widen_keys<NA_FLOAT16>(problem, tile); break;
    default: widen_keys<NA_BFLOAT16>(problem, tile);
  }
  return true;
}

}  // namespace
}  // namespace na::cpu
