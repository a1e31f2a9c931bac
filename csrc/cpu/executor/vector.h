// Vectors of floats and the functions of them that the executor needs. Included once by each instruction set, which
// defines NA_WIDTH, the floats in a vector. All is in an unnamed namespace: see problem.h.
#pragma once

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
// Intrinsics of GCC 11 and 12 pass a register whose content does not matter as a variable never set.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace na::cpu {
namespace {

constexpr int kWidth = NA_WIDTH;

typedef float Vector __attribute__((vector_size(4 * NA_WIDTH)));
typedef int32_t Integers __attribute__((vector_size(4 * NA_WIDTH)));
typedef uint32_t Naturals __attribute__((vector_size(4 * NA_WIDTH)));
// In memory, where a row of bfloat16 may begin at any even address.
typedef float LooseVector __attribute__((vector_size(4 * NA_WIDTH), aligned(2), may_alias));
typedef int32_t LooseIntegers __attribute__((vector_size(4 * NA_WIDTH), aligned(2), may_alias));

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
constexpr float kInfinity = __builtin_inff(), kMostFloat = 3.40282347e38f;

#define NA_INLINE inline __attribute__((always_inline))

NA_INLINE Vector load(const float* from) { return *reinterpret_cast<const LooseVector*>(from); }
NA_INLINE void store(float* to, Vector x) { *reinterpret_cast<LooseVector*>(to) = x; }
NA_INLINE Integers load(const int32_t* from) { return *reinterpret_cast<const LooseIntegers*>(from); }
NA_INLINE Vector broadcast(float x) { return x - Vector{}; }
NA_INLINE Integers broadcast(int32_t x) { return x - Integers{}; }
// Wraps around: lanes and keys that do not count may hold anything.
NA_INLINE Integers difference(Integers a, Integers b) { return (Integers)((Naturals)a - (Naturals)b); }
NA_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
// 0 <= a < b, for b >= 0.
NA_INLINE Integers below(Integers a, Integers b) { return (Integers)((Naturals)a < (Naturals)b); }
NA_INLINE Vector select(Integers which, Vector a, Vector b) { return which ? a : b; }

// A bias or sink in units of log2. What is finite stays so: masks are often made of the lowest float.
NA_INLINE Vector to_log2(Vector x) {
  const Vector most = broadcast(kMostFloat), product = x * broadcast(kLog2E);
  const Vector above = select((x <= most) & (product > most), most, product);
  return select((x >= -most) & (product < -most), -most, above);
}
NA_INLINE float to_log2(float x) { return to_log2(broadcast(x))[0]; }

#if NA_WIDTH == 16

// Whether any lane of a comparison holds.
NA_INLINE bool any(Integers which) { return _mm512_test_epi32_mask((__m512i)which, (__m512i)which) != 0; }
NA_INLINE Vector larger(Vector a, Vector b) { return (Vector)_mm512_max_ps((__m512)a, (__m512)b); }

#elif NA_WIDTH == 8

NA_INLINE bool any(Integers which) { return _mm256_testz_si256((__m256i)which, (__m256i)which) == 0; }
NA_INLINE Vector larger(Vector a, Vector b) { return (Vector)_mm256_max_ps((__m256)a, (__m256)b); }

#else

NA_INLINE bool any(Integers which) {
  int32_t all = 0;
  for (int i = 0; i < kWidth; i++) all |= which[i];
  return all != 0;
}
NA_INLINE Vector larger(Vector a, Vector b) { return select(a > b, a, b); }

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

// The elements at[index].
NA_INLINE Vector gather(const float* at, Integers index) {
#if NA_WIDTH == 16
  return (Vector)_mm512_i32gather_ps((__m512i)index, at, 4);
#elif NA_WIDTH == 8
  return (Vector)_mm256_i32gather_ps(at, (__m256i)index, 4);
#else
  Vector result;
  for (int i = 0; i < kWidth; i++) result[i] = at[index[i]];
  return result;
#endif
}

// 2^r for 0 <= r <= 1, relative error below 2.1e-9 before rounding; 1 at 0 exactly.
NA_INLINE Vector exp2_fraction(Vector r) {
  Vector p = broadcast(0.000216129165724f);
  p = multiply_add(p, r, broadcast(0.00124678459058f));
  p = multiply_add(p, r, broadcast(0.00967545163511f));
  p = multiply_add(p, r, broadcast(0.0554852805788f));
  p = multiply_add(p, r, broadcast(0.240229305563f));
  p = multiply_add(p, r, broadcast(0.693147044442f));
  return multiply_add(p, r, broadcast(1.0f));
}

// 2^x for x < 128; exactly 0 below -126, since sums of products with subnormal weights would take many times as long;
// NaN at NaN.
NA_INLINE Vector exp2(Vector x) {
#if NA_WIDTH == 16
  constexpr int kFloor = 1;  // of the rounding modes of vreduceps, which is x - floor(x), and 0 at infinity
  const Vector fraction = (Vector)_mm512_reduce_ps((__m512)x, kFloor);
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (Vector)_mm512_maskz_scalef_ps(normal, (__m512)exp2_fraction(fraction), (__m512)x);
#else
  const Vector magic = broadcast(12582912.0f);  // 1.5 * 2^23: what is added to it is rounded to an integer
  const Vector clamped = select(x < broadcast(-126.0f), broadcast(-126.0f), x);
  const Vector rounded = (clamped - broadcast(0.5f)) + magic;
  const Vector power = exp2_fraction(clamped - (rounded - magic));
  const Vector scaled = (Vector)((Integers)power + ((Integers)rounded << 23));
  return select(x < broadcast(-126.0f), Vector{}, scaled);
#endif
}

// Natural logarithm of normal numbers; infinity and NaN stay what they are.
NA_INLINE Vector log(Vector x) {
  // x is m * 2^e with m from the root of 1/2 to that of 2, so that f is small where the logarithm is.
  const Integers e = ((Integers)x - 0x3f3504f3) >> 23;
  const Vector f = (Vector)((Integers)x - (e << 23)) - broadcast(1.0f), z = f * f;
  Vector p = broadcast(7.0376836292e-2f);
  p = multiply_add(p, f, broadcast(-1.1514610310e-1f));
  p = multiply_add(p, f, broadcast(1.1676998740e-1f));
  p = multiply_add(p, f, broadcast(-1.2420140846e-1f));
  p = multiply_add(p, f, broadcast(1.4249322787e-1f));
  p = multiply_add(p, f, broadcast(-1.6668057665e-1f));
  p = multiply_add(p, f, broadcast(2.0000714765e-1f));
  p = multiply_add(p, f, broadcast(-2.4999993993e-1f));
  p = multiply_add(p, f, broadcast(3.3333331174e-1f));
  // ln 2 in two parts, of which the first times e is exact.
  const Vector exponent = __builtin_convertvector(e, Vector);
  const Vector rest = multiply_add(exponent, broadcast(-2.12194440e-4f), multiply_add(p * f, z, z * broadcast(-0.5f)));
  const Vector result = multiply_add(exponent, broadcast(0.693359375f), f + rest);
  return select(x <= broadcast(kMostFloat), result, x);
}

// tanh with a small relative error everywhere: a polynomial near 0, where the exponential would cancel.
NA_INLINE Vector tanh(Vector x) {
  const Vector z = x * x;
  Vector p = broadcast(-0.00570498711843f);
  p = multiply_add(p, z, broadcast(0.0206390873497f));
  p = multiply_add(p, z, broadcast(-0.0537397151157f));
  p = multiply_add(p, z, broadcast(0.133314421985f));
  p = multiply_add(p, z, broadcast(-0.33333281942f));
  const Vector near = multiply_add(x * z, p, x);
  const Vector size = select(x < Vector{}, -x, x);
  // Beyond 10 the quotient is below half a unit in the last place of 1.
  const Vector capped = select(size > broadcast(10.0f), broadcast(10.0f), size);
  const Vector far = broadcast(1.0f) - broadcast(2.0f) / (exp2(capped * broadcast(2 * kLog2E)) + broadcast(1.0f));
  return select(size < broadcast(0.625f), near, select(x < Vector{}, -far, far));
}

template <int... kIndex>
NA_INLINE Vector shuffle(Vector a, Vector b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kIndex...);
#else
  return __builtin_shuffle(a, b, Integers{kIndex...});
#endif
}

// a0 b0 a1 b1 ... of the lower and of the upper halves.
#if NA_WIDTH == 16
NA_INLINE Vector zip_low(Vector a, Vector b) {
  return shuffle<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
}
NA_INLINE Vector zip_high(Vector a, Vector b) {
  return shuffle<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b);
}
#elif NA_WIDTH == 8
NA_INLINE Vector zip_low(Vector a, Vector b) { return shuffle<0, 8, 1, 9, 2, 10, 3, 11>(a, b); }
NA_INLINE Vector zip_high(Vector a, Vector b) { return shuffle<4, 12, 5, 13, 6, 14, 7, 15>(a, b); }
#else
NA_INLINE Vector zip_low(Vector a, Vector b) { return shuffle<0, 4, 1, 5>(a, b); }
NA_INLINE Vector zip_high(Vector a, Vector b) { return shuffle<2, 6, 3, 7>(a, b); }
#endif

// Rows become columns: each round interleaves the first half of the rows with the second.
NA_INLINE void transpose(Vector (&rows)[kWidth]) {
  for (int round = 1; round < kWidth; round *= 2) {
    Vector zipped[kWidth];
    for (int i = 0; i < kWidth / 2; i++) {
      zipped[2 * i] = zip_low(rows[i], rows[i + kWidth / 2]);
      zipped[2 * i + 1] = zip_high(rows[i], rows[i + kWidth / 2]);
    }
    for (int i = 0; i < kWidth; i++) rows[i] = zipped[i];
  }
}

}  // namespace
}  // namespace na::cpu
