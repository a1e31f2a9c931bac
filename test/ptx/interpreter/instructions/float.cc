// f32, f32x2 and f64 arithmetic.
//
// Directed rounding of f32 goes through double (see number.h). f64 has nothing wider and uses the processor's rounding
// mode. The approximate functions give the nearest float to the exact value, which is within what PTX allows.
#include <cfenv>
#include <limits>

#include "alu.h"
#include "number.h"

namespace ptx {
namespace {

float float_nan() { return from_bits<float>(kFloatNan); }

template <bool Ftz>
float input(float value) {
  return Ftz ? flushed(value) : value;
}
template <bool Ftz, bool Sat>
float output(float value) {
  if (value != value) return Sat ? 0.0f : float_nan();
  if (Ftz) value = flushed(value);
  return Sat ? value > 0 ? std::min(value, 1.0f) : 0.0f : value;
}

// a + b, with a double that may be the product of two floats, rounded once.
template <Rounding R>
float rounded_sum(double a, double b) {
  const double sum = odd_sum(a, b);
  // Opposite numbers give -0 when rounding down, else +0, which `sum` is.
  if (R == Rounding::kDown && sum == 0 && std::signbit(a) != std::signbit(b)) return -0.0f;
  return double_to_float(sum, R);
}

template <Rounding R, bool Ftz, bool Sat>
float add(float a, float b) {
  a = input<Ftz>(a);
  b = input<Ftz>(b);
  return output<Ftz, Sat>(R == Rounding::kNearestEven ? a + b : rounded_sum<R>(a, b));
}
template <Rounding R, bool Ftz, bool Sat>
float sub(float a, float b) {
  return add<R, Ftz, Sat>(a, -b);
}
template <Rounding R, bool Ftz, bool Sat>
float mul(float a, float b) {
  a = input<Ftz>(a);
  b = input<Ftz>(b);
  return output<Ftz, Sat>(R == Rounding::kNearestEven ? a * b : double_to_float(double{a} * b, R));
}
template <Rounding R, bool Ftz, bool Sat>
float fma(float a, float b, float c) {
  a = input<Ftz>(a);
  b = input<Ftz>(b);
  c = input<Ftz>(c);
  return output<Ftz, Sat>(R == Rounding::kNearestEven ? std::fma(a, b, c) : rounded_sum<R>(double{a} * b, c));
}
template <Rounding R, bool Ftz>
float div(float a, float b) {
  a = input<Ftz>(a);
  b = input<Ftz>(b);
  return output<Ftz, false>(R == Rounding::kNearestEven ? a / b : double_to_float(odd_quotient(a, b), R));
}
template <Rounding R, bool Ftz>
float rcp(float a) {
  return div<R, Ftz>(1.0f, a);
}
template <Rounding R, bool Ftz>
float sqrt(float a) {
  a = input<Ftz>(a);
  return output<Ftz, false>(R == Rounding::kNearestEven ? std::sqrt(a) : double_to_float(odd_root(a), R));
}

template <bool Ftz>
float div_approx(float a, float b) {
  // The reciprocal of so large a divisor is no longer a normal number.
  if (std::fabs(b) > 0x1p126f && !std::isinf(b)) return output<Ftz, false>(input<Ftz>(a) * std::copysign(0.0f, b));
  return div<Rounding::kNearestEven, Ftz>(a, b);
}

// --- Functions with an approximate result

template <bool Ftz>
float rsqrt(float a) {
  return output<Ftz, false>(static_cast<float>(1.0 / std::sqrt(double{input<Ftz>(a)})));
}
template <bool Ftz>
float ex2(float a) {
  return output<Ftz, false>(std::exp2(input<Ftz>(a)));
}
template <bool Ftz>
float lg2(float a) {
  return output<Ftz, false>(std::log2(input<Ftz>(a)));
}
template <bool Ftz>
float sin(float a) {
  return output<Ftz, false>(std::sin(input<Ftz>(a)));
}
template <bool Ftz>
float cos(float a) {
  return output<Ftz, false>(std::cos(input<Ftz>(a)));
}
float tanh(float a) { return output<false, false>(std::tanh(a)); }

// The coarse f64 forms read and write the upper half only, and know no denormals.
double upper_half(double value) { return from_bits<double>(to_bits(value) & 0xffff'ffff'0000'0000); }
double flushed_double(double value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0, value) : value;
}
double rcp_coarse(double a) { return flushed_double(upper_half(1.0 / flushed_double(upper_half(a)))); }
double rsqrt_coarse(double a) { return flushed_double(upper_half(1.0 / std::sqrt(flushed_double(upper_half(a))))); }
double rsqrt_double(double a) { return 1.0 / std::sqrt(a); }

// --- min, max, signs

template <bool Max, bool Ftz, bool Nan, bool XorSign>
float min_max(float a, float b) {
  a = input<Ftz>(a);
  b = input<Ftz>(b);
  const bool negative = XorSign && std::signbit(a) != std::signbit(b);
  if (XorSign) {
    a = std::fabs(a);
    b = std::fabs(b);
  }
  if ((a != a && b != b) || (Nan && (a != a || b != b))) return float_nan();
  const float chosen = a != a ? b : b != b ? a : less(a, b) == Max ? b : a;
  return negative ? -chosen : chosen;
}
template <bool Max>
double min_max_double(double a, double b) {
  if (a != a) return b;
  if (b != b) return a;
  return less(a, b) == Max ? b : a;
}

// neg and abs, on the bits, so that a NaN changes only its sign.
constexpr uint64_t kSign = uint64_t{1} << 63;
template <bool Negate, bool Ftz>
uint32_t sign(float a) {
  const auto bits = static_cast<uint32_t>(to_bits(input<Ftz>(a)));
  return Negate ? bits ^ 0x8000'0000 : bits & 0x7fff'ffff;
}
template <bool Negate>
uint64_t sign_double(uint64_t a) {
  return Negate ? a ^ kSign : a & ~kSign;
}
// The sign is that of the first operand.
uint32_t copysign_float(uint32_t a, uint32_t b) { return (a & 0x8000'0000) | (b & 0x7fff'ffff); }
uint64_t copysign_double(uint64_t a, uint64_t b) { return (a & kSign) | (b & ~kSign); }

// --- f64. The operands are volatile so that nothing is computed outside the mode.

class RoundingMode {
 public:
  explicit RoundingMode(int mode) { std::fesetround(mode); }
  ~RoundingMode() { std::fesetround(FE_TONEAREST); }
};

double add_double(double a, double b) {
  volatile double x = a, y = b;
  return x + y;
}
double sub_double(double a, double b) {
  volatile double x = a, y = b;
  return x - y;
}
double mul_double(double a, double b) {
  volatile double x = a, y = b;
  return x * y;
}
double div_double(double a, double b) {
  volatile double x = a, y = b;
  return x / y;
}
double fma_double(double a, double b, double c) {
  volatile double x = a, y = b, z = c;
  return std::fma(x, y, z);
}
double rcp_double(double a) { return div_double(1.0, a); }
double sqrt_double(double a) {
  volatile double x = a;
  return std::sqrt(x);
}

template <auto F>
Outcome in_mode(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const RoundingMode mode(static_cast<int>(instruction.detail[0]));
  return lanewise<F>(warp, instruction, lanes);
}

// --- testp

enum class Test { kFinite, kInfinite, kNumber, kNotanumber, kNormal, kSubnormal };

template <typename T, Test K>
bool test(T value) {
  switch (K) {
    case Test::kFinite: return std::isfinite(value);
    case Test::kInfinite: return std::isinf(value);
    case Test::kNumber: return !std::isnan(value);
    case Test::kNotanumber: return std::isnan(value);
    case Test::kNormal: return std::isnormal(value) || value == 0;
    case Test::kSubnormal: break;
  }
  return std::fpclassify(value) == FP_SUBNORMAL;
}
template <typename T, Test K>
Outcome testp(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row& a = warp.source(instruction.operands[1]);
  uint32_t holds = 0;
  for_lanes(lanes, [&](int lane) { holds |= static_cast<uint32_t>(test<T, K>(from_bits<T>(a[lane]))) << lane; });
  write_predicate(warp, instruction.operands[0].index, lanes, holds);
  return Outcome::kDone;
}
template <typename T>
Execute testp_form(int kind) {
  constexpr Execute kAll[] = {&testp<T, Test::kFinite>,     &testp<T, Test::kInfinite>, &testp<T, Test::kNumber>,
                              &testp<T, Test::kNotanumber>, &testp<T, Test::kNormal>,   &testp<T, Test::kSubnormal>};
  return kind < 0 ? nullptr : kAll[kind];
}

// --- Decoders

enum class Type { kF32, kF32x2, kF64, kOther };

// Whether the instruction is one of this file; takes its type.
Type take_float(AluForm& form, const Instruction& instruction) {
  const auto type = instruction.type();
  const Type result = type == "f32"     ? Type::kF32
                      : type == "f32x2" ? Type::kF32x2
                      : type == "f64"   ? Type::kF64
                                        : Type::kOther;
  if (result != Type::kOther) form.take_type();
  return result;
}

// The rounding mode, or -1.
int take_rounding(AluForm& form) { return form.take_one_of({"rn", "rz", "rm", "rp"}); }

template <Rounding R>
using RoundingTag = std::integral_constant<Rounding, R>;
template <typename Make>
Execute for_rounding(int rounding, Make make) {
  switch (rounding) {
    case 1: return make(RoundingTag<Rounding::kZero>{});
    case 2: return make(RoundingTag<Rounding::kDown>{});
    case 3: return make(RoundingTag<Rounding::kUp>{});
    default: return make(RoundingTag<Rounding::kNearestEven>{});
  }
}

template <auto F>
Execute double_form(Instruction& instruction, int rounding) {
  if (rounding <= 0) return lanewise<F>;
  constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  instruction.detail[0] = static_cast<uint64_t>(kModes[rounding]);
  return &in_mode<F>;
}

enum class Operation { kAdd, kSub, kMul, kFma };

template <Operation O, Rounding R, bool Ftz, bool Sat>
constexpr auto float_function() {
  if constexpr (O == Operation::kAdd) {
    return &add<R, Ftz, Sat>;
  } else if constexpr (O == Operation::kSub) {
    return &sub<R, Ftz, Sat>;
  } else if constexpr (O == Operation::kMul) {
    return &mul<R, Ftz, Sat>;
  } else {
    return &fma<R, Ftz, Sat>;
  }
}
template <Operation O>
constexpr auto double_function() {
  if constexpr (O == Operation::kAdd) {
    return &add_double;
  } else if constexpr (O == Operation::kSub) {
    return &sub_double;
  } else if constexpr (O == Operation::kMul) {
    return &mul_double;
  } else {
    return &fma_double;
  }
}

template <Operation O>
Execute float_form(int rounding, bool ftz, bool sat) {
  return for_rounding(rounding, [=](auto r) {
    return for_flag(ftz, [=](auto f) {
      return for_flag(sat, [](auto s) {
        return lanewise<float_function<O, decltype(r)::value, decltype(f)::value, decltype(s)::value>()>;
      });
    });
  });
}
template <Operation O>
Execute packed_form(int rounding, bool ftz) {
  return for_rounding(rounding, [=](auto r) {
    return for_flag(
        ftz, [](auto f) { return pairwise<float_function<O, decltype(r)::value, decltype(f)::value, false>()>; });
  });
}

template <Operation O>
bool decode_arithmetic(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  if (type == Type::kOther) return false;
  const int rounding = take_rounding(form);
  if (O == Operation::kFma && rounding < 0) unsupported(instruction, "no rounding mode");
  const std::string_view shape = O == Operation::kFma ? "rvvv" : "rvv";
  if (type == Type::kF64)
    return finish(instruction, form, shape, double_form<double_function<O>()>(instruction, rounding));
  const bool ftz = form.take("ftz");
  if (type == Type::kF32x2) return finish(instruction, form, shape, packed_form<O>(rounding, ftz));
  return finish(instruction, form, shape, float_form<O>(rounding, ftz, form.take("sat")));
}

bool decode_div(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  if (type == Type::kOther) return false;
  const int rounding = take_rounding(form);
  Execute execute = nullptr;
  if (type == Type::kF64 && rounding >= 0) execute = double_form<&div_double>(instruction, rounding);
  if (type == Type::kF32) {
    const bool ftz = form.take("ftz"), approx = form.take("approx"), full = form.take("full");
    if (approx) execute = ftz ? lanewise<div_approx<true>> : lanewise<div_approx<false>>;
    if (full || rounding >= 0) {
      execute = for_rounding(rounding, [ftz](auto r) {
        return for_flag(ftz, [](auto f) { return lanewise<div<decltype(r)::value, decltype(f)::value>>; });
      });
    }
    if (approx + full + (rounding >= 0) != 1) unsupported(instruction, "one of .approx, .full and a rounding mode");
  }
  return finish(instruction, form, "rvv", execute);
}

// rcp and sqrt: .approx, which here is exact to the last bit, or a rounding mode.
template <bool Root>
bool decode_rcp_sqrt(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  const int rounding = take_rounding(form);
  const bool approx = form.take("approx"), ftz = form.take("ftz");
  Execute execute = nullptr;
  if (approx + (rounding >= 0) != 1) unsupported(instruction, "one of .approx and a rounding mode");
  if (type == Type::kF32) {
    execute = for_rounding(rounding, [ftz](auto r) {
      return for_flag(ftz, [](auto f) {
        constexpr Rounding kMode = decltype(r)::value;
        constexpr bool kFtz = decltype(f)::value;
        return Root ? lanewise<sqrt<kMode, kFtz>> : lanewise<rcp<kMode, kFtz>>;
      });
    });
  } else if (type == Type::kF64 && rounding >= 0 && !ftz) {
    execute = double_form<Root ? &sqrt_double : &rcp_double>(instruction, rounding);
  } else if (type == Type::kF64 && approx && ftz && !Root) {
    execute = lanewise<rcp_coarse>;
  }
  return finish(instruction, form, "rv", execute);
}

bool decode_rsqrt(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  if (!form.take("approx")) unsupported(instruction, "without .approx");
  const bool ftz = form.take("ftz");
  Execute execute = nullptr;
  if (type == Type::kF32) execute = ftz ? lanewise<rsqrt<true>> : lanewise<rsqrt<false>>;
  if (type == Type::kF64) execute = ftz ? lanewise<rsqrt_coarse> : lanewise<rsqrt_double>;
  return finish(instruction, form, "rv", execute);
}

template <auto F, auto Flushing>
bool decode_function(Instruction& instruction) {
  AluForm form(instruction);
  if (take_float(form, instruction) != Type::kF32) return false;
  if (!form.take("approx")) unsupported(instruction, "without .approx");
  return finish(instruction, form, "rv", form.take("ftz") ? lanewise<Flushing> : lanewise<F>);
}

bool decode_tanh(Instruction& instruction) {
  AluForm form(instruction);
  if (take_float(form, instruction) != Type::kF32) return false;
  return finish(instruction, form, "rv", form.take("approx") ? lanewise<tanh> : nullptr);
}

template <bool Max>
bool decode_min_max(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  if (type == Type::kOther) return false;
  if (type == Type::kF64) return finish(instruction, form, "rvv", lanewise<min_max_double<Max>>);
  const bool ftz = form.take("ftz"), nan = form.take("NaN"), xorsign = form.take("xorsign");
  if (xorsign && !form.take("abs")) unsupported(instruction, ".xorsign without .abs");
  const Execute execute = for_flag(ftz, [=](auto f) {
    return for_flag(nan, [=](auto n) {
      return for_flag(xorsign, [](auto x) {
        return lanewise<min_max<Max, decltype(f)::value, decltype(n)::value, decltype(x)::value>>;
      });
    });
  });
  return finish(instruction, form, "rvv", type == Type::kF32 ? execute : nullptr);
}

template <bool Negate>
bool decode_sign(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  if (type == Type::kOther) return false;
  Execute execute = nullptr;
  if (type == Type::kF64) execute = lanewise<sign_double<Negate>>;
  if (type == Type::kF32) execute = form.take("ftz") ? lanewise<sign<Negate, true>> : lanewise<sign<Negate, false>>;
  return finish(instruction, form, "rv", execute);
}

bool decode_copysign(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  Execute execute = nullptr;
  if (type == Type::kF32) execute = lanewise<copysign_float>;
  if (type == Type::kF64) execute = lanewise<copysign_double>;
  return finish(instruction, form, "rvv", execute);
}

bool decode_testp(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_float(form, instruction);
  const int kind = form.take_one_of({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  Execute execute = nullptr;
  if (type == Type::kF32) execute = testp_form<float>(kind);
  if (type == Type::kF64) execute = testp_form<double>(kind);
  return finish(instruction, form, "pv", execute);
}

}  // namespace

void add_float(InstructionSet& set) {
  set.add("add", decode_arithmetic<Operation::kAdd>);
  set.add("sub", decode_arithmetic<Operation::kSub>);
  set.add("mul", decode_arithmetic<Operation::kMul>);
  set.add("fma", decode_arithmetic<Operation::kFma>);
  set.add("mad", decode_arithmetic<Operation::kFma>);  // the same since capability 2.0
  set.add("div", decode_div);
  set.add("rcp", decode_rcp_sqrt<false>);
  set.add("sqrt", decode_rcp_sqrt<true>);
  set.add("rsqrt", decode_rsqrt);
  set.add("ex2", decode_function<ex2<false>, ex2<true>>);
  set.add("lg2", decode_function<lg2<false>, lg2<true>>);
  set.add("sin", decode_function<sin<false>, sin<true>>);
  set.add("cos", decode_function<cos<false>, cos<true>>);
  set.add("tanh", decode_tanh);
  set.add("min", decode_min_max<false>);
  set.add("max", decode_min_max<true>);
  set.add("neg", decode_sign<true>);
  set.add("abs", decode_sign<false>);
  set.add("copysign", decode_copysign);
  set.add("testp", decode_testp);
}

}  // namespace ptx
