// cvt between all types, packed conversions, and cvta.
#include <limits>

#include "alu.h"
#include "number.h"

namespace ptx {
namespace {

struct Options {
  Rounding rounding;
  bool rounds_to_integer, ftz, sat, satfinite, relu;
};
static_assert(sizeof(Options) <= sizeof(uint64_t));

template <typename T>
constexpr bool is_integer = std::is_integral_v<T>;

// --- Numbers as double, which holds all but integers of 64 bits exactly; those rounded to odd

template <typename S>
double number(Options options, S source) {
  if constexpr (std::is_same_v<S, float>) {
    return options.ftz ? flushed(source) : source;
  } else if constexpr (std::is_same_v<S, double>) {
    return source;
  } else if constexpr (!is_integer<S>) {
    return source.value();
  } else if constexpr (sizeof(S) == 8) {
    const auto bits = static_cast<uint64_t>(source);
    return source < 0 ? odd_integer(0 - bits, true) : odd_integer(bits, false);
  } else {
    return source;
  }
}

template <typename D>
D narrowed(Options options, double value) {
  if constexpr (std::is_same_v<D, float>) {
    const float result = double_to_float(value, options.rounding);
    return options.ftz ? flushed(result) : result;
  } else if constexpr (std::is_same_v<D, double>) {
    return value;
  } else {
    return D::round(value, options.rounding);
  }
}

template <typename D>
double largest() {
  if constexpr (std::is_same_v<D, Half>) {
    return 65504;
  } else if constexpr (std::is_same_v<D, Bfloat>) {
    return bfloat_to_float(0x7f7f);
  } else {
    return std::numeric_limits<D>::max();
  }
}

// .relu: below zero is zero. .sat: to [0, 1], NaN to 0. .satfinite: what overflows is the largest finite number.
template <typename D>
double limited(Options options, double value) {
  if (options.relu && value <= 0) return 0.0;
  if (options.sat) return value > 0 ? std::min(value, 1.0) : 0.0;
  if (options.satfinite && std::fabs(value) > largest<D>()) return std::copysign(largest<D>(), value);
  return value;
}

// --- Integers. Small signed results are sign-extended: the register may be wider than the type.

template <typename D>
using Stored = std::conditional_t<is_integer<D> && std::is_signed_v<D> && sizeof(D) < 4, int64_t, D>;

// Out of range gives the nearest limit. NaN gives 0, or in conversions with a type of 64 bits the sign bit alone.
template <typename D, typename S>
D to_integer(Options options, S source) {
  using Limits = std::numeric_limits<D>;
  const double value = round_to_integer(number(options, source), options.rounding);
  if (value != value) {
    constexpr bool kLong = std::is_same_v<S, double> || sizeof(D) == 8;
    return kLong ? static_cast<D>(uint64_t{1} << (8 * sizeof(D) - 1)) : D{0};
  }
  // The upper limit plus one is a power of two, so that it is exact.
  if (value >= std::ldexp(1.0, Limits::digits)) return Limits::max();
  if (value <= static_cast<double>(Limits::min())) return Limits::min();
  return static_cast<D>(value);
}

template <typename D, typename S>
D clamped(S source) {
  using Limits = std::numeric_limits<D>;
  if constexpr (std::is_signed_v<S>) {
    if (source < 0) {
      if constexpr (!std::is_signed_v<D>) return 0;
      return static_cast<D>(std::max<int64_t>(source, static_cast<int64_t>(Limits::min())));
    }
  }
  return static_cast<D>(std::min<uint64_t>(static_cast<uint64_t>(source), static_cast<uint64_t>(Limits::max())));
}

// --- The conversion of one value

template <typename D, typename S>
Stored<D> convert(Options options, S source) {
  if constexpr (is_integer<D> && is_integer<S>) {
    return options.sat ? clamped<D>(source) : static_cast<D>(source);
  } else if constexpr (is_integer<D>) {
    return to_integer<D>(options, source);
  } else if constexpr (std::is_same_v<D, double> && is_integer<S> && sizeof(S) == 8) {
    const auto bits = static_cast<uint64_t>(source);
    return limited<D>(options, integer_to_double(source < 0 ? 0 - bits : bits, source < 0, options.rounding));
  } else {
    double value = number(options, source);
    if (options.rounds_to_integer) value = round_to_integer(value, options.rounding);
    return narrowed<D>(options, limited<D>(options, value));
  }
}

// --- Pairs. The first source goes into the upper half.

struct E4m3 {
  uint8_t bits;
  double value() const { return e4m3_to_float(bits); }
  static E4m3 round(double value, Rounding) { return {float_to_e4m3(static_cast<float>(value))}; }
};
struct E5m2 {
  uint8_t bits;
  double value() const { return e5m2_to_float(bits); }
  static E5m2 round(double value, Rounding) { return {float_to_e5m2(static_cast<float>(value))}; }
};

template <typename N>
using Pair = std::conditional_t<sizeof(N) == 1, uint16_t, uint32_t>;

template <typename N>
Pair<N> packed(Options options, double high, double low) {
  const auto limit = [&](double value) {
    if constexpr (sizeof(N) == 1) {
      return options.relu && value <= 0 ? 0.0 : value;  // fp8 saturates by itself
    } else {
      return limited<N>(options, value);
    }
  };
  return static_cast<Pair<N>>(to_bits(N::round(limit(low), options.rounding)) |
                              to_bits(N::round(limit(high), options.rounding)) << 8 * sizeof(N));
}

// From two registers with one f32 each.
template <typename N>
Pair<N> pack_floats(Options options, float high, float low) {
  return packed<N>(options, high, low);
}
// From one register with a pair in another format.
template <typename N, typename S>
Pair<N> convert_pair(Options options, Pair<S> source) {
  const auto low = from_bits<S>(source), high = from_bits<S>(source >> 8 * sizeof(S));
  return packed<N>(options, high.value(), low.value());
}

// --- tf32, kept in a register of 32 bits

uint32_t to_tf32(Options options, float value) {
  const float most = from_bits<float>(0x7f7f'e000);
  if (options.relu && value <= 0) value = 0;
  if (options.satfinite && std::fabs(value) > most) value = std::copysign(most, value);
  return static_cast<uint32_t>(to_bits(float_to_tf32(value, options.rounding)));
}

// --- cvt.pack: two s32 saturated and put together, for 8-bit types in front of the lower half of a third

template <typename T>
uint32_t pack_integers(int32_t a, int32_t b) {
  using U = std::make_unsigned_t<T>;
  const uint32_t high = static_cast<U>(clamped<T>(a)), low = static_cast<U>(clamped<T>(b));
  return high << 8 * sizeof(T) | low;
}
template <typename T>
uint32_t pack_behind(int32_t a, int32_t b, uint32_t c) {
  return c << 16 | pack_integers<T>(a, b);
}

// --- cvta. Global and constant memory are generic as they are; parameters have generic addresses from the start. An
// address outside the window gives one that no access accepts, not a fault, since compilers convert ahead of the test.

template <uint64_t Window>
uint64_t to_generic(uint64_t address) {
  return address + Window;
}
template <uint64_t Window>
uint64_t from_generic(uint64_t address) {
  return address - Window;
}

// --- Decoders

enum class Family { kSigned, kUnsigned, kFloat };

struct TypeInfo {
  Family family;
  int bits;
};
// bits is 0 for a type that plain cvt does not know.
TypeInfo info(std::string_view type) {
  if (type == "u8") return {Family::kUnsigned, 8};
  if (type == "u16") return {Family::kUnsigned, 16};
  if (type == "u32") return {Family::kUnsigned, 32};
  if (type == "u64") return {Family::kUnsigned, 64};
  if (type == "s8") return {Family::kSigned, 8};
  if (type == "s16") return {Family::kSigned, 16};
  if (type == "s32") return {Family::kSigned, 32};
  if (type == "s64") return {Family::kSigned, 64};
  if (type == "f16" || type == "bf16") return {Family::kFloat, 16};
  if (type == "f32") return {Family::kFloat, 32};
  if (type == "f64") return {Family::kFloat, 64};
  return {Family::kFloat, 0};
}

template <typename Make>
Execute for_number(std::string_view type, Make make) {
  if (type == "u8") return make(uint8_t{});
  if (type == "s8") return make(int8_t{});
  if (type == "f16") return make(Half{});
  if (type == "bf16") return make(Bfloat{});
  if (type == "f32") return make(float{});
  if (type == "f64") return make(double{});
  return for_integer(type, make);
}

// Takes .rn and the like, .rni and the like, and the other modifiers. False when there is no rounding.
bool take_options(AluForm& form, Options& options) {
  constexpr Rounding kModes[] = {Rounding::kNearestEven, Rounding::kZero, Rounding::kDown, Rounding::kUp,
                                 Rounding::kNearestAway};
  int mode = form.take_one_of({"rni", "rzi", "rmi", "rpi"});
  options.rounds_to_integer = mode >= 0;
  if (mode < 0) mode = form.take_one_of({"rn", "rz", "rm", "rp", "rna"});
  options.rounding = mode < 0 ? Rounding::kNearestEven : kModes[mode];
  options.ftz = form.take("ftz");
  options.sat = form.take("sat");
  options.satfinite = form.take("satfinite");
  options.relu = form.take("relu");
  return mode >= 0;
}

// Whether a conversion has the rounding that it needs, and none that means nothing.
void check_rounding(const Instruction& instruction, std::string_view to, std::string_view from, Options options,
                    bool rounds) {
  const TypeInfo d = info(to), s = info(from);
  const bool to_float = d.family == Family::kFloat, from_float = s.family == Family::kFloat;
  bool fits = false;
  if (!to_float && !from_float) {
    fits = !rounds;
  } else if (!to_float) {
    fits = options.rounds_to_integer;
  } else if (!from_float) {
    fits = rounds && !options.rounds_to_integer;
  } else if (to == from) {
    fits = !rounds || options.rounds_to_integer;
  } else if (d.bits <= s.bits) {
    fits = rounds && !options.rounds_to_integer;
  } else {
    fits = !rounds;
  }
  if (!fits || options.rounding == Rounding::kNearestAway) unsupported(instruction, "this rounding with these types");
}

// Combinations of types and modifiers that PTX does not have, although they would mean something.
void check_types(const Instruction& instruction, std::string_view to, std::string_view from, Options options) {
  const TypeInfo d = info(to), s = info(from);
  const bool between_integers = d.family != Family::kFloat && s.family != Family::kFloat;
  const bool holds_all = d.family == s.family ? d.bits >= s.bits : d.family == Family::kSigned && d.bits > s.bits;
  const bool bfloat = to == "bf16" || from == "bf16";
  if (options.sat && between_integers && holds_all) unsupported(instruction, ".sat where nothing can overflow");
  if (options.sat && bfloat) unsupported(instruction, ".sat with bf16");
  if (bfloat && (d.bits == 8 || s.bits == 8)) unsupported(instruction, "bf16 with 8 bits");
  if ((options.relu || options.satfinite) && to != "f16" && to != "bf16") {
    unsupported(instruction, ".relu or .satfinite here");
  }
  if (options.ftz && to != "f32" && from != "f32") unsupported(instruction, ".ftz without f32");
}

bool decode_plain(Instruction& instruction, const AluForm& form, std::string_view to, std::string_view from,
                  Options options, bool rounds) {
  if (info(to).bits == 0 || info(from).bits == 0) {
    unsupported(instruction, "from ." + std::string(from) + " to ." + std::string(to));
  }
  check_rounding(instruction, to, from, options, rounds);
  check_types(instruction, to, from, options);
  return finish(instruction, form, "rv", for_number(to, [from](auto d) {
                  return for_number(from,
                                    [](auto s) -> Execute { return lanewise_with<convert<decltype(d), decltype(s)>>; });
                }));
}

template <typename N>
bool decode_packed(Instruction& instruction, const AluForm& form, std::string_view from) {
  if (from == "f32") return finish(instruction, form, "rvv", lanewise_with<pack_floats<N>>);
  if constexpr (sizeof(N) == 1) {
    return finish(instruction, form, "rv", from == "f16x2" ? lanewise_with<convert_pair<N, Half>> : nullptr);
  } else if constexpr (std::is_same_v<N, Half>) {
    if (from == "e4m3x2") return finish(instruction, form, "rv", lanewise_with<convert_pair<N, E4m3>>);
    return finish(instruction, form, "rv", from == "e5m2x2" ? lanewise_with<convert_pair<N, E5m2>> : nullptr);
  } else {
    return finish(instruction, form, "rvv", nullptr);
  }
}

bool decode_pack(Instruction& instruction, AluForm& form) {
  const auto last = form.take_type();
  const bool behind = last == "b32";
  const auto from = behind ? form.take_type() : last, to = form.take_type();
  if (!form.take("sat") || from != "s32") unsupported(instruction, "this form of cvt.pack");
  Execute execute = nullptr;
  if (to == "u16" && !behind) execute = lanewise<pack_integers<uint16_t>>;
  if (to == "s16" && !behind) execute = lanewise<pack_integers<int16_t>>;
  if (to == "u8" && behind) execute = lanewise<pack_behind<uint8_t>>;
  if (to == "s8" && behind) execute = lanewise<pack_behind<int8_t>>;
  return finish(instruction, form, behind ? "rvvv" : "rvv", execute);
}

bool decode_cvt(Instruction& instruction) {
  AluForm form(instruction);
  if (form.take("pack")) return decode_pack(instruction, form);
  const auto from = form.take_type(), to = form.take_type();
  Options options = {};
  const bool rounds = take_options(form, options);
  instruction.detail[0] = to_bits(options);

  const bool is_packed = to.size() > 2 && to.substr(to.size() - 2) == "x2";
  if (!is_packed && to != "tf32") return decode_plain(instruction, form, to, from, options, rounds);
  if (options.rounds_to_integer || options.ftz || options.sat) unsupported(instruction, "a modifier of plain cvt");
  if (to == "tf32") {
    const bool known = options.rounding != Rounding::kDown && options.rounding != Rounding::kUp;
    return finish(instruction, form, "rv", rounds && known && from == "f32" ? lanewise_with<to_tf32> : nullptr);
  }
  const bool nearest = rounds && options.rounding == Rounding::kNearestEven;
  const bool towards_zero = options.rounding == Rounding::kZero && from == "f32";
  if (to == "f16x2" && (nearest || towards_zero)) return decode_packed<Half>(instruction, form, from);
  if (to == "bf16x2" && (nearest || towards_zero)) return decode_packed<Bfloat>(instruction, form, from);
  if (to == "e4m3x2" && nearest && options.satfinite) return decode_packed<E4m3>(instruction, form, from);
  if (to == "e5m2x2" && nearest && options.satfinite) return decode_packed<E5m2>(instruction, form, from);
  unsupported(instruction, "this type or rounding");
}

bool decode_cvta(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  if (type != "u64") unsupported(instruction, "addresses of type ." + std::string(type));
  const bool from = form.take("to");
  Execute execute = nullptr;
  switch (form.take_one_of({"global", "const", "param", "shared", "shared::cta", "shared::cluster", "local"})) {
    case 0:
    case 1:
    case 2: execute = lanewise<to_generic<0>>; break;
    case 3:
    case 4:
    case 5: execute = from ? lanewise<from_generic<kSharedWindow>> : lanewise<to_generic<kSharedWindow>>; break;
    case 6: execute = from ? lanewise<from_generic<kLocalWindow>> : lanewise<to_generic<kLocalWindow>>; break;
    default: break;
  }
  return finish(instruction, form, "rv", execute);
}

}  // namespace

void add_convert(InstructionSet& set) {
  set.add("cvt", decode_cvt);
  set.add("cvta", decode_cvta);
}

}  // namespace ptx
