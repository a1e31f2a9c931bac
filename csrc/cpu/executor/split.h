// A float32 as a sum of bfloat16 parts, for the tile registers, which multiply nothing else. Each part is the nearest
// bfloat16 to what is left, so three are exactly a float32 and two a float16. Included by amx.cc, like vector.h.
#pragma once

#include "cpu/executor/convert.h"
#include "cpu/executor/vector.h"

namespace na::cpu {
namespace {

template <int kType>
constexpr int kParts = kType == NA_FLOAT32   ? 3
                       : kType == NA_FLOAT16 ? 2
                                             : 1;

// Magnitudes outside of these have no exact parts: the tile instructions treat denormals as zero, what is near the
// largest float rounds to infinity, and a part of infinity times one that is zero would be NaN.
constexpr float kLeastSplit = 0x1p-100f, kMostSplit = 0x1p63f;

NA_INLINE __mmask16 without_parts(Vector x, float largest = kMostSplit) {
  const Naturals size = (Naturals)x & 0x7fffffff;
  const Naturals least = (Naturals)broadcast(kLeastSplit), most = (Naturals)broadcast(largest);
  const __mmask16 outside = _mm512_cmpgt_epu32_mask((__m512i)(size - least), (__m512i)(most - least));
  return _mm512_mask_test_epi32_mask(outside, (__m512i)size, (__m512i)size);
}

// The upper halves, bfloat16, of an even and an odd element side by side.
NA_INLINE __m512i upper_halves(Vector even, Vector odd) {
  constexpr __mmask32 kOdd = 0xaaaaaaaa;
  return _mm512_mask_blend_epi16(kOdd, _mm512_srli_epi32((__m512i)even, 16), (__m512i)odd);
}

NA_INLINE Vector nearest_part(Vector x) { return (Vector)(((Naturals)x + 0x8000) & 0xffff0000); }

// Calls store(part, halves), the largest part first; the last is cut off where it is not exact.
template <int kCount, int kPart = 0, typename Store>
NA_INLINE void split(Vector even, Vector odd, const Store& store) {
  if constexpr (kPart + 1 < kCount) {
    const Vector even_part = nearest_part(even), odd_part = nearest_part(odd);
    store(kPart, upper_halves(even_part, odd_part));
    split<kCount, kPart + 1>(even - even_part, odd - odd_part, store);
  } else {
    store(kPart, upper_halves(even, odd));
  }
}

}  // namespace
}  // namespace na::cpu
