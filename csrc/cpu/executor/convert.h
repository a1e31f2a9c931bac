// Between float16 or bfloat16 and float32, rounding to nearest even. Included like vector.h.
#pragma once

#include <cstddef>

#include "core/backend.h"
#include "cpu/executor/vector.h"

namespace na::cpu {
namespace {

NA_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

NA_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

NA_INLINE float from_bfloat16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

// In the lower halves of the elements.
NA_INLINE Naturals to_bfloat16(Vector x) {
  const Naturals bits = (Naturals)x, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return x == x ? rounded : bits >> 16 | 0x40;
}

#if defined(__F16C__)

NA_INLINE float from_float16(uint16_t x) { return _cvtsh_ss(x); }

#else

NA_INLINE float from_float16(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16, rest = x & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
  if (rest >= 0x400) return float_of(sign | ((rest << 13) + 0x38000000));
  return float_of(sign | bits_of(static_cast<float>(rest) * 0x1p-24f));
}

NA_INLINE uint16_t to_float16(float x) {
  const uint32_t bits = bits_of(x), rest = bits & 0x7fffffff;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (rest > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (rest >> 13 & 0x3ff));
  if (rest >= 0x477ff000) return sign | 0x7c00;  // rounds to 2^16 or beyond
  // Below 2^-14, adding 0.5 leaves the multiple of 2^-24 in the last bits, rounded by the addition.
  if (rest < 0x38800000) return static_cast<uint16_t>(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000));
  return static_cast<uint16_t>(sign | ((rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13));
}

#endif

// kWidth elements as float32.
template <int kType>
NA_INLINE Vector widen_vector(const char* from) {
#if NA_WIDTH == 16
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  if constexpr (kType == NA_FLOAT16) return (Vector)_mm512_cvtph_ps(halves);
  return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#elif NA_WIDTH == 8
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  if constexpr (kType == NA_FLOAT16) return (Vector)_mm256_cvtph_ps(halves);
  return (Vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
#else
  const uint16_t* row = reinterpret_cast<const uint16_t*>(from);
  Vector result;
  for (int i = 0; i < kWidth; i++) result[i] = kType == NA_FLOAT16 ? from_float16(row[i]) : from_bfloat16(row[i]);
  return result;
#endif
}

template <int kType>
NA_INLINE void widen_halves(const char* from, int count, float* to) {
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) store(to + i, widen_vector<kType>(from + 2 * i));
  const uint16_t* row = reinterpret_cast<const uint16_t*>(from);
  for (; i < count; i++) to[i] = kType == NA_FLOAT16 ? from_float16(row[i]) : from_bfloat16(row[i]);
}

// A row of any dtype as float32.
NA_INLINE void widen(int dtype, const char* from, int count, float* to) {
  if (dtype == NA_FLOAT32) {
    const float* row = reinterpret_cast<const float*>(from);
    int i = 0;
    for (; i + kWidth <= count; i += kWidth) store(to + i, load(row + i));
    for (; i < count; i++) to[i] = row[i];
  } else if (dtype == NA_FLOAT16) {
    widen_halves<NA_FLOAT16>(from, count, to);
  } else {
    widen_halves<NA_BFLOAT16>(from, count, to);
  }
}

// kWidth elements as float16 or bfloat16.
template <int kType>
NA_INLINE void narrow_vector(Vector x, char* to) {
#if NA_WIDTH == 16
  __m256i halves;
  if constexpr (kType == NA_FLOAT16) {
    halves = _mm512_cvtps_ph((__m512)x, 0);
  } else {
    halves = _mm512_cvtepi32_epi16((__m512i)to_bfloat16(x));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
#elif NA_WIDTH == 8
  __m128i halves;
  if constexpr (kType == NA_FLOAT16) {
    halves = _mm256_cvtps_ph((__m256)x, 0);
  } else {
    const __m256i words = (__m256i)to_bfloat16(x);
    halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), halves);
#else
  for (int i = 0; i < kWidth; i++) {
    const uint16_t half = kType == NA_FLOAT16 ? to_float16(x[i]) : static_cast<uint16_t>(to_bfloat16(x)[i]);
    __builtin_memcpy(to + 2 * i, &half, 2);
  }
#endif
}

// float16 or bfloat16 in the lower halves of the elements.
NA_INLINE Naturals to_halves(int dtype, Vector x) {
  if (dtype == NA_BFLOAT16) return to_bfloat16(x);
#if NA_WIDTH == 16
  return (Naturals)_mm512_cvtepu16_epi32(_mm512_cvtps_ph((__m512)x, 0));
#elif NA_WIDTH == 8
  return (Naturals)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)x, 0));
#else
  Naturals result;
  for (int i = 0; i < kWidth; i++) result[i] = to_float16(x[i]);
  return result;
#endif
}

// kWidth elements of a row, or the `count` that are left of it and zeros.
template <int kType>
NA_INLINE Vector load_elements(const char* row, int at, int count) {
  constexpr int kBytes = kType == NA_FLOAT32 ? 4 : 2;
  alignas(64) char rest[kWidth * kBytes];
  const char* from = row + static_cast<int64_t>(at) * kBytes;
  if (count < kWidth) {
    __builtin_memset(rest, 0, sizeof(rest));
    __builtin_memcpy(rest, from, static_cast<size_t>(count) * kBytes);
    from = rest;
  }
  if constexpr (kType == NA_FLOAT32) return load(reinterpret_cast<const float*>(from));
  return widen_vector<kType>(from);
}

NA_INLINE Vector load_elements(int dtype, const char* row, int at, int count) {
  if (dtype == NA_FLOAT32) return load_elements<NA_FLOAT32>(row, at, count);
  if (dtype == NA_FLOAT16) return load_elements<NA_FLOAT16>(row, at, count);
  return load_elements<NA_BFLOAT16>(row, at, count);
}

// The reverse: kWidth elements of a row, or the `count` that are left of it.
NA_INLINE void store_elements(int dtype, char* row, int at, int count, Vector x) {
  const int bytes = dtype == NA_FLOAT32 ? 4 : 2;
  char rest[4 * kWidth];
  char* to = count < kWidth ? rest : row + static_cast<int64_t>(at) * bytes;
  if (dtype == NA_FLOAT32) {
    store(reinterpret_cast<float*>(to), x);
  } else if (dtype == NA_FLOAT16) {
    narrow_vector<NA_FLOAT16>(x, to);
  } else {
    narrow_vector<NA_BFLOAT16>(x, to);
  }
  if (count < kWidth)
    __builtin_memcpy(row + static_cast<int64_t>(at) * bytes, rest, static_cast<size_t>(count * bytes));
}

}  // namespace
}  // namespace na::cpu
