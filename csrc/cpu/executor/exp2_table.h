// exp2 for AMX. For some hundred cycles after any tile instruction the processor has one unit for multiply-adds of
// whole vectors instead of two, so a table in registers takes the place of most of them. Included by amx.cc, like
// vector.h.
#pragma once

#include "cpu/executor/vector.h"

namespace na::cpu {
namespace {

// 2^(i / 32).
alignas(64) constexpr float kRoots[2 * kWidth] = {
    1,           1.0218972f,  1.04427373f, 1.06714046f, 1.09050775f, 1.1143868f,  1.13878858f, 1.1637249f,
    1.18920708f, 1.21524739f, 1.24185777f, 1.26905096f, 1.29683959f, 1.32523668f, 1.35425556f, 1.38390994f,
    1.41421354f, 1.44518077f, 1.47682619f, 1.50916445f, 1.54221082f, 1.5759809f,  1.61049032f, 1.64575553f,
    1.68179286f, 1.71861935f, 1.75625217f, 1.79470909f, 1.8340081f,  1.87416768f, 1.91520655f, 1.95714414f};

// 2^x for x < 128; exactly 0 at minus infinity and NaN at NaN. Relative error before rounding: `kFine` 3e-10, else
// 7e-8.
template <bool kFine>
NA_INLINE Vector exp2_by_table(Vector x) {
  constexpr int kDown = 1, kThirtySeconds = 5 << 4 | kDown;  // vreduceps: x - floor(32 x) / 32, and 0 at infinity
  const Vector rest = (Vector)_mm512_reduce_ps((__m512)x, kThirtySeconds);
  // What is added to this has floor(32 x) in its last bits, of which the table takes five.
  const __m512 shift = (__m512)broadcast(0x1.8p18f);
  const __m512 index = _mm512_add_round_ps((__m512)x, shift, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  const Vector root =
      (Vector)_mm512_permutex2var_ps(_mm512_load_ps(kRoots), (__m512i)index, _mm512_load_ps(kRoots + kWidth));
  Vector p;
  if constexpr (kFine) {
    p = multiply_add(broadcast(0.056084223f), rest, broadcast(0.240216f));
    p = multiply_add(p, rest, broadcast(0.69314724f));
  } else {
    p = multiply_add(broadcast(0.2426527f), rest, broadcast(0.69312376f));
  }
  const __mmask16 normal = _mm512_cmp_ps_mask((__m512)x, (__m512)broadcast(-126.0f), _CMP_NLT_UQ);
  return (Vector)_mm512_maskz_scalef_ps(normal, (__m512)multiply_add(root, p * rest, root), (__m512)x);
}

}  // namespace
}  // namespace na::cpu
