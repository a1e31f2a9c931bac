// Arithmetic of f16, bf16 and their packed pairs: computed in double, rounded once.
#include "alu.h"
#include "number.h"

namespace ptx {
namespace {

// What becomes of a result.
enum class Limit { kNone, kSat, kRelu };

template <typename H, bool Ftz, Limit L>
H output(double value) {
  if (L == Limit::kSat) value = value > 0 ? std::min(value, 1.0) : 0.0;  // NaN gives 0
  if (L == Limit::kRelu && value <= 0) value = 0.0;
  const H result = H::round(value);
  return Ftz ? flushed(result) : result;
}
template <bool Ftz, typename H>
double input(H half) {
  return (Ftz ? flushed(half) : half).value();
}

template <typename H, bool Ftz, Limit L>
H add(H a, H b) {
  return output<H, Ftz, L>(odd_sum(input<Ftz>(a), input<Ftz>(b)));
}
template <typename H, bool Ftz, Limit L>
H sub(H a, H b) {
  return output<H, Ftz, L>(odd_sum(input<Ftz>(a), -input<Ftz>(b)));
}
template <typename H, bool Ftz, Limit L>
H mul(H a, H b) {
  return output<H, Ftz, L>(input<Ftz>(a) * input<Ftz>(b));
}
template <typename H, bool Ftz, Limit L>
H fma(H a, H b, H c) {
  return output<H, Ftz, L>(odd_sum(input<Ftz>(a) * input<Ftz>(b), input<Ftz>(c)));
}

template <bool Negate, typename H, bool Ftz>
H sign(H a) {
  const uint16_t bits = (Ftz ? flushed(a) : a).bits;
  return {static_cast<uint16_t>(Negate ? bits ^ 0x8000 : bits & 0x7fff)};
}

template <bool Max, typename H, bool Ftz, bool Nan, bool XorSign>
H min_max(H a, H b) {
  static_assert(kHalfNan == kBfloatNan);
  if (Ftz) {
    a = flushed(a);
    b = flushed(b);
  }
  const uint16_t sign = XorSign ? (a.bits ^ b.bits) & 0x8000 : 0;
  if (XorSign) {
    a.bits &= 0x7fff;
    b.bits &= 0x7fff;
  }
  const double x = a.value(), y = b.value();
  if ((x != x && y != y) || (Nan && (x != x || y != y))) return {kHalfNan};
  const H chosen = x != x ? b : y != y ? a : less(x, y) == Max ? b : a;
  return {static_cast<uint16_t>(chosen.bits ^ sign)};
}

template <typename H, bool Ftz>
H ex2(H a) {
  return output<H, Ftz, Limit::kNone>(std::exp2(input<Ftz>(a)));
}
template <typename H>
H tanh(H a) {
  return output<H, false, Limit::kNone>(std::tanh(a.value()));
}

// --- Decoders

struct Type {
  bool is_half, is_bfloat, is_packed;
  explicit operator bool() const { return is_half || is_bfloat; }
};
Type take_half(AluForm& form, const Instruction& instruction) {
  const auto type = instruction.type();
  const Type result = {type == "f16" || type == "f16x2", type == "bf16" || type == "bf16x2",
                       type == "f16x2" || type == "bf16x2"};
  if (result) form.take_type();
  return result;
}

// lanewise or pairwise, as the type says, for a function that `make` gives for the number format.
template <auto ForHalf, auto ForBfloat>
Execute form_of(Type type) {
  if (type.is_half) return type.is_packed ? pairwise<ForHalf> : lanewise<ForHalf>;
  return type.is_packed ? pairwise<ForBfloat> : lanewise<ForBfloat>;
}

enum class Operation { kAdd, kSub, kMul, kFma };

template <Operation O, typename H, bool Ftz, Limit L>
constexpr auto function() {
  if constexpr (O == Operation::kAdd) {
    return &add<H, Ftz, L>;
  } else if constexpr (O == Operation::kSub) {
    return &sub<H, Ftz, L>;
  } else if constexpr (O == Operation::kMul) {
    return &mul<H, Ftz, L>;
  } else {
    return &fma<H, Ftz, L>;
  }
}
template <Operation O, bool Ftz, Limit L>
Execute arithmetic_form(Type type) {
  return form_of<function<O, Half, Ftz, L>(), function<O, Bfloat, Ftz, L>()>(type);
}

template <Operation O>
bool decode_arithmetic(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_half(form, instruction);
  if (!type) return false;
  const bool rounds = form.take("rn");
  if (O == Operation::kFma && !rounds) unsupported(instruction, "no rounding mode");
  const bool ftz = type.is_half && form.take("ftz"), sat = type.is_half && form.take("sat");
  const bool relu = O == Operation::kFma && !sat && form.take("relu");
  const Execute execute = for_flag(ftz, [=](auto f) {
    constexpr bool kFtz = decltype(f)::value;
    return sat    ? arithmetic_form<O, kFtz, Limit::kSat>(type)
           : relu ? arithmetic_form<O, kFtz, Limit::kRelu>(type)
                  : arithmetic_form<O, kFtz, Limit::kNone>(type);
  });
  return finish(instruction, form, O == Operation::kFma ? "rvvv" : "rvv", execute);
}

template <bool Negate>
bool decode_sign(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_half(form, instruction);
  if (!type) return false;
  const Execute execute = for_flag(type.is_half && form.take("ftz"), [=](auto f) {
    constexpr bool kFtz = decltype(f)::value;
    return form_of<sign<Negate, Half, kFtz>, sign<Negate, Bfloat, kFtz>>(type);
  });
  return finish(instruction, form, "rv", execute);
}

template <bool Max>
bool decode_min_max(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_half(form, instruction);
  if (!type) return false;
  const bool ftz = type.is_half && form.take("ftz"), nan = form.take("NaN"), xorsign = form.take("xorsign");
  if (xorsign && !form.take("abs")) unsupported(instruction, ".xorsign without .abs");
  const Execute execute = for_flag(ftz, [=](auto f) {
    return for_flag(nan, [=](auto n) {
      return for_flag(xorsign, [=](auto x) {
        constexpr bool kF = decltype(f)::value, kN = decltype(n)::value, kX = decltype(x)::value;
        return form_of<min_max<Max, Half, kF, kN, kX>, min_max<Max, Bfloat, kF, kN, kX>>(type);
      });
    });
  });
  return finish(instruction, form, "rvv", execute);
}

bool decode_ex2(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_half(form, instruction);
  if (!type) return false;
  if (!form.take("approx")) unsupported(instruction, "without .approx");
  if (form.take("ftz") != type.is_bfloat) unsupported(instruction, ".ftz is for bf16, and only for it");
  return finish(instruction, form, "rv", form_of<ex2<Half, false>, ex2<Bfloat, true>>(type));
}

bool decode_tanh(Instruction& instruction) {
  AluForm form(instruction);
  const Type type = take_half(form, instruction);
  if (!type) return false;
  if (!form.take("approx")) unsupported(instruction, "without .approx");
  return finish(instruction, form, "rv", form_of<tanh<Half>, tanh<Bfloat>>(type));
}

}  // namespace

void add_half(InstructionSet& set) {
  set.add("add", decode_arithmetic<Operation::kAdd>);
  set.add("sub", decode_arithmetic<Operation::kSub>);
  set.add("mul", decode_arithmetic<Operation::kMul>);
  set.add("fma", decode_arithmetic<Operation::kFma>);
  set.add("neg", decode_sign<true>);
  set.add("abs", decode_sign<false>);
  set.add("min", decode_min_max<false>);
  set.add("max", decode_min_max<true>);
  set.add("ex2", decode_ex2);
  set.add("tanh", decode_tanh);
}

}  // namespace ptx
