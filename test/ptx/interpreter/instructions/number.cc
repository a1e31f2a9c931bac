#include "number.h"

namespace ptx {
namespace {

struct Format {
  int mantissa_bits, bias;
  uint32_t largest;   // the code of the largest finite number
  uint32_t overflow;  // the code of what lies beyond: infinity, or the largest number again (satfinite)
  uint32_t sign;
};
constexpr Format kHalf = {10, 15, 0x7bff, 0x7c00, 0x8000}, kBfloat = {7, 127, 0x7f7f, 0x7f80, 0x8000},
                 kFloat = {23, 127, 0x7f7f'ffff, 0x7f80'0000, 0x8000'0000},
                 kTf32 = {10, 127, 0x3fbff, 0x3fc00, 0x4'0000}, kE4m3 = {3, 7, 0x7e, 0x7e, 0x80},
                 kE5m2 = {2, 15, 0x7b, 0x7b, 0x80};

constexpr uint64_t kDoubleSign = uint64_t{1} << 63;

// Whether the magnitude goes up, given its last kept bit, the rest that is dropped, and half of one unit.
bool rounds_up(Rounding rounding, bool negative, bool odd, uint64_t rest, uint64_t half) {
  switch (rounding) {
    case Rounding::kNearestEven: return rest > half || (rest == half && odd);
    case Rounding::kNearestAway: return rest >= half;
    case Rounding::kDown: return negative && rest != 0;
    case Rounding::kUp: return !negative && rest != 0;
    case Rounding::kZero: break;
  }
  return false;
}

// The code of a number that is not NaN.
uint32_t encode(double value, const Format& format, Rounding rounding) {
  const uint64_t bits = to_bits(value), magnitude = bits & ~kDoubleSign;
  const bool negative = (bits & kDoubleSign) != 0;
  const uint32_t sign = negative ? format.sign : 0;
  if (magnitude == 0) return sign;
  if (std::isinf(value)) return sign | format.overflow;

  const int stored = static_cast<int>(magnitude >> 52), least = 1 - format.bias;
  const int exponent = stored == 0 ? -1022 : stored - 1023;
  const uint64_t mantissa = (magnitude & ((uint64_t{1} << 52) - 1)) | (stored == 0 ? 0 : uint64_t{1} << 52);
  const int denormal = exponent < least ? least - exponent : 0;
  int shift = 52 - format.mantissa_bits + denormal;
  if (shift > 62) shift = 62;  // the whole mantissa is then below half a unit already
  uint64_t kept = mantissa >> shift;
  const uint64_t rest = mantissa & ((uint64_t{1} << shift) - 1);
  if (rounds_up(rounding, negative, kept & 1, rest, uint64_t{1} << (shift - 1))) kept++;

  // The leading bit of `kept`, if any, counts as one in the exponent's field; so does a carry.
  const int field = (denormal != 0 ? least : exponent) + format.bias - 1;
  const uint64_t code = (static_cast<uint64_t>(field) << format.mantissa_bits) + kept;
  if (code <= format.largest) return sign | static_cast<uint32_t>(code);
  const bool inward = rounding == Rounding::kZero || (rounding == Rounding::kDown && !negative) ||
                      (rounding == Rounding::kUp && negative);
  return sign | (inward ? format.largest : format.overflow);
}

// The neighbour of `nearest` with an odd last bit in whose direction the exact value lies, when `nearest` is inexact.
double to_odd(double nearest, double residue) {
  if (residue == 0 || !std::isfinite(nearest)) return nearest;
  const uint64_t bits = to_bits(nearest);
  if (bits & 1) return nearest;
  const bool outward = (residue > 0) == (nearest > 0);
  return from_bits<double>(outward ? bits + 1 : bits - 1);
}

}  // namespace

uint16_t double_to_half(double value, Rounding rounding) {
  return std::isnan(value) ? kHalfNan : static_cast<uint16_t>(encode(value, kHalf, rounding));
}

uint16_t double_to_bfloat(double value, Rounding rounding) {
  return std::isnan(value) ? kBfloatNan : static_cast<uint16_t>(encode(value, kBfloat, rounding));
}

float double_to_float(double value, Rounding rounding) {
  if (rounding == Rounding::kNearestEven && !std::isnan(value)) return static_cast<float>(value);
  return from_bits<float>(std::isnan(value) ? kFloatNan : encode(value, kFloat, rounding));
}

uint16_t float_to_half(float value, Rounding rounding) { return double_to_half(value, rounding); }

uint16_t float_to_bfloat(float value, Rounding rounding) {
  if (rounding != Rounding::kNearestEven || std::isnan(value)) return double_to_bfloat(value, rounding);
  const uint32_t bits = static_cast<uint32_t>(to_bits(value));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float float_to_tf32(float value, Rounding rounding) {
  return from_bits<float>(std::isnan(value) ? kFloatNan : encode(value, kTf32, rounding) << 13);
}

uint8_t float_to_e4m3(float value) {
  return std::isnan(value) ? kE4m3Nan : static_cast<uint8_t>(encode(value, kE4m3, Rounding::kNearestEven));
}

uint8_t float_to_e5m2(float value) {
  return std::isnan(value) ? kE5m2Nan : static_cast<uint8_t>(encode(value, kE5m2, Rounding::kNearestEven));
}

double round_to_integer(double value, Rounding rounding) {
  switch (rounding) {
    case Rounding::kNearestEven: return std::nearbyint(value);  // the mode of the process is never left changed
    case Rounding::kNearestAway: return std::round(value);
    case Rounding::kDown: return std::floor(value);
    case Rounding::kUp: return std::ceil(value);
    case Rounding::kZero: break;
  }
  return std::trunc(value);
}

double integer_to_double(uint64_t magnitude, bool negative, Rounding rounding) {
  const int excess = magnitude == 0 ? 0 : 11 - __builtin_clzll(magnitude);  // bits beyond the 53 that a double holds
  uint64_t kept = magnitude;
  if (excess > 0) {
    const uint64_t rest = magnitude & ((uint64_t{1} << excess) - 1);
    kept = magnitude >> excess;
    if (rounds_up(rounding, negative, kept & 1, rest, uint64_t{1} << (excess - 1))) kept++;
  }
  const double value = std::ldexp(static_cast<double>(kept), excess > 0 ? excess : 0);
  return negative ? -value : value;
}

double odd_integer(uint64_t magnitude, bool negative) {
  constexpr uint64_t kDropped = 0x7ff;  // so that 53 bits are left, even of the largest
  if (magnitude >> 53 != 0) magnitude = (magnitude & ~kDropped) | (magnitude & kDropped ? kDropped + 1 : 0);
  const auto value = static_cast<double>(magnitude);
  return negative ? -value : value;
}

double odd_sum(double a, double b) {
  const double sum = a + b;
  const double b_taken = sum - a, a_taken = sum - b_taken;
  return to_odd(sum, (a - a_taken) + (b - b_taken));
}

double odd_quotient(double a, double b) {
  const double quotient = a / b;
  if (std::isinf(b)) return quotient;
  const double residue = std::fma(-quotient, b, a);
  return to_odd(quotient, std::signbit(b) ? -residue : residue);
}

double odd_root(double a) {
  const double root = std::sqrt(a);
  return to_odd(root, std::fma(-root, root, a));
}

}  // namespace ptx
