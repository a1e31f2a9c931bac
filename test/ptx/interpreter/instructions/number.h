// The number formats that C++ lacks (half, bfloat16, fp8, tf32), and rounding in every mode that PTX names.
//
// Narrowing goes through one function that rounds a double once. Where an operation is not exact in double, its result
// is first rounded to odd (the last bit keeps that something was lost), so that the second rounding is the only one
// that shows: double has more than two bits beyond every format here.
#pragma once

#include <cmath>
#include <cstdint>

#include "../machine.h"

namespace ptx {

enum class Rounding : uint8_t { kNearestEven, kZero, kDown, kUp, kNearestAway };

// What PTX arithmetic gives for a NaN, whatever the operands' payloads were.
constexpr uint16_t kHalfNan = 0x7fff, kBfloatNan = 0x7fff;
constexpr uint32_t kFloatNan = 0x7fff'ffff;
constexpr uint8_t kE4m3Nan = 0x7f, kE5m2Nan = 0x7f;

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = (half & 0x7fffu) << 13;
  if ((half & 0x7c00) == 0x7c00) return from_bits<float>(sign | 0x7f80'0000 | magnitude);
  // Read with a float's bias the value is 2^112 too small; the product is exact, for denormals too.
  return from_bits<float>(sign | to_bits(from_bits<float>(magnitude) * 0x1p112f));
}

inline float bfloat_to_float(uint16_t bfloat) { return from_bits<float>(static_cast<uint64_t>(bfloat) << 16); }

inline float e4m3_to_float(uint8_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x80) << 24, magnitude = value & 0x7f;
  if (magnitude == kE4m3Nan) return from_bits<float>(sign | kFloatNan);
  return from_bits<float>(sign | to_bits(from_bits<float>(magnitude << 20) * 0x1p120f));
}

inline float e5m2_to_float(uint8_t value) { return half_to_float(static_cast<uint16_t>(value << 8)); }

// NaN gives the canonical NaN of the target; overflow gives infinity or the largest finite number, as the mode says.
uint16_t double_to_half(double value, Rounding rounding = Rounding::kNearestEven);
uint16_t double_to_bfloat(double value, Rounding rounding = Rounding::kNearestEven);
float double_to_float(double value, Rounding rounding = Rounding::kNearestEven);

uint16_t float_to_half(float value, Rounding rounding = Rounding::kNearestEven);
uint16_t float_to_bfloat(float value, Rounding rounding = Rounding::kNearestEven);
// A float whose low 13 bits are zero.
float float_to_tf32(float value, Rounding rounding = Rounding::kNearestAway);
// With .satfinite, the only form that PTX has: beyond the largest number gives the largest number.
uint8_t float_to_e4m3(float value);
uint8_t float_to_e5m2(float value);

// Values in registers of 16 bits. Arithmetic on them is done in double.
struct Half {
  uint16_t bits;
  double value() const { return half_to_float(bits); }
  static Half round(double value, Rounding rounding = Rounding::kNearestEven) {
    return {double_to_half(value, rounding)};
  }
  bool is_denormal() const { return (bits & 0x7c00) == 0; }
};
struct Bfloat {
  uint16_t bits;
  double value() const { return bfloat_to_float(bits); }
  static Bfloat round(double value, Rounding rounding = Rounding::kNearestEven) {
    return {double_to_bfloat(value, rounding)};
  }
  bool is_denormal() const { return (bits & 0x7f80) == 0; }
};

// A denormal becomes a zero of the same sign (.ftz).
inline float flushed(float value) {
  const auto bits = static_cast<uint32_t>(to_bits(value));
  return (bits & 0x7f80'0000) == 0 ? from_bits<float>(bits & 0x8000'0000) : value;
}
template <typename H>
H flushed(H half) {
  return half.is_denormal() ? H{static_cast<uint16_t>(half.bits & 0x8000)} : half;
}

// The order of min and max, in which -0 is less than +0.
inline bool less(double a, double b) { return a < b || (a == b && std::signbit(a) && !std::signbit(b)); }

// Rounds to an integer, as a double.
double round_to_integer(double value, Rounding rounding);

// An integer of 64 bits, given as magnitude and sign, rounded once.
double integer_to_double(uint64_t magnitude, bool negative, Rounding rounding);
// The same rounded to odd, to be narrowed further.
double odd_integer(uint64_t magnitude, bool negative);

// a + b, a / b and sqrt(a) rounded to odd. Exact enough for operands that are floats, or products of two floats: in
// that range neither the results nor the residues leave double's normal numbers.
double odd_sum(double a, double b);
double odd_quotient(double a, double b);
double odd_root(double a);

}  // namespace ptx
