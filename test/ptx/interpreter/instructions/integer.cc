// Integer arithmetic, carry chains and bit fields.
#include <limits>

#include "alu.h"

namespace ptx {
namespace {

__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 Uint128;

template <typename T>
constexpr int kBits = 8 * sizeof(T);
template <typename T>
using Wide =
    std::conditional_t<sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, Int128, Uint128>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
                                          std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>>;

// --- add, sub, mul, mad, div, rem. Unsigned inside, so that overflow wraps.

template <typename T>
T add(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
template <typename T>
T sub(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
}
template <bool Subtract, typename T>
T sum(T a, T b) {
  return Subtract ? sub(a, b) : add(a, b);
}
template <typename T>
T mul_lo(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <typename T>
Wide<T> mul_wide(T a, T b) {
  return static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b);
}
template <typename T>
T mul_hi(T a, T b) {
  return static_cast<T>(mul_wide(a, b) >> kBits<T>);
}
template <typename T>
T mad_lo(T a, T b, T c) {
  return add(mul_lo(a, b), c);
}
template <typename T>
T mad_hi(T a, T b, T c) {
  return add(mul_hi(a, b), c);
}
template <typename T>
Wide<T> mad_wide(T a, T b, Wide<T> c) {
  return add(mul_wide(a, b), c);
}
int32_t saturate(int64_t value) {
  return static_cast<int32_t>(
      std::clamp<int64_t>(value, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()));
}
template <bool Subtract>
int32_t sum_sat(int32_t a, int32_t b) {
  return saturate(Subtract ? int64_t{a} - b : int64_t{a} + b);
}
int32_t mad_hi_sat(int32_t a, int32_t b, int32_t c) { return saturate(int64_t{mul_hi(a, b)} + c); }

// Division by zero gives a machine-specific value, which here has all bits set.
template <typename T>
T div(T a, T b) {
  if (b == 0) return static_cast<T>(~T{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return sub(T{0}, a);  // the least number would trap
  return static_cast<T>(a / b);
}
template <typename T>
T rem(T a, T b) {
  if (b == 0) return static_cast<T>(~T{0});
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <typename T>
T neg(T a) {
  return sub(T{0}, a);
}
template <bool Negate, typename T>
T sign(T a) {
  return Negate || a < 0 ? neg(a) : a;
}
template <bool Max, typename T>
T extreme(T a, T b) {
  return Max ? std::max(a, b) : std::min(a, b);
}
template <bool Max, typename T>
T extreme_relu(T a, T b) {
  return std::max(extreme<Max>(a, b), T{0});
}
template <typename T>
T sad(T a, T b, T c) {
  return add(c, a < b ? sub(b, a) : sub(a, b));
}

// --- 24-bit products

int32_t low_24(int32_t a) { return static_cast<int32_t>(static_cast<uint32_t>(a) << 8) >> 8; }
uint32_t low_24(uint32_t a) { return a & 0xff'ffff; }

template <typename T>
T mul24_lo(T a, T b) {
  return static_cast<T>(mul_wide(low_24(a), low_24(b)));
}
template <typename T>
T mul24_hi(T a, T b) {
  return static_cast<T>(mul_wide(low_24(a), low_24(b)) >> 16);
}
template <typename T>
T mad24_lo(T a, T b, T c) {
  return add(mul24_lo(a, b), c);
}
template <typename T>
T mad24_hi(T a, T b, T c) {
  return add(mul24_hi(a, b), c);
}
int32_t mad24_hi_sat(int32_t a, int32_t b, int32_t c) { return saturate(int64_t{mul24_hi(a, b)} + c); }

// --- Dot products of bytes

int64_t part(uint32_t bits, int index, int width, bool is_signed) {
  const uint32_t field = bits << (32 - width * (index + 1)) >> (32 - width);
  const int64_t sign = int64_t{1} << (width - 1);
  return is_signed ? (int64_t{field} ^ sign) - sign : int64_t{field};
}
template <bool SignedA, bool SignedB>
uint32_t dp4a(uint32_t a, uint32_t b, uint32_t c) {
  int64_t sum = c;
  for (int i = 0; i < 4; i++) sum += part(a, i, 8, SignedA) * part(b, i, 8, SignedB);
  return static_cast<uint32_t>(sum);
}
template <bool SignedA, bool SignedB, bool High>
uint32_t dp2a(uint32_t a, uint32_t b, uint32_t c) {
  int64_t sum = c;
  for (int i = 0; i < 2; i++) sum += part(a, i, 16, SignedA) * part(b, i + (High ? 2 : 0), 8, SignedB);
  return static_cast<uint32_t>(sum);
}

// --- Bits

template <typename T>
uint32_t popc(T a) {
  return static_cast<uint32_t>(__builtin_popcountll(a));
}
template <typename T>
uint32_t clz(T a) {
  return a == 0 ? kBits<T> : static_cast<uint32_t>(__builtin_clzll(a)) - (64 - kBits<T>);
}
template <typename T>
T brev(T a) {
  T result = 0;
  for (int i = 0; i < kBits<T>; i++) result = static_cast<T>(result << 1 | (a >> i & 1));
  return result;
}
// The highest bit that differs from the sign (that is set, when unsigned); as a shift amount, the distance to the top.
template <typename T, bool ShiftAmount>
uint32_t bfind(T a) {
  using U = std::make_unsigned_t<T>;
  const uint32_t zeros = clz(static_cast<U>(std::is_signed_v<T> && a < 0 ? ~a : a));
  if (zeros == kBits<T>) return ~uint32_t{0};
  return ShiftAmount ? zeros : kBits<T> - 1 - zeros;
}

// The lowest `length` bits set, for a length up to any number.
template <typename U>
U low_bits(uint32_t length) {
  return length >= kBits<U> ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << length) - 1);
}
template <typename T>
T bfe(T a, uint32_t position, uint32_t length) {
  using U = std::make_unsigned_t<T>;
  position &= 0xff;
  length &= 0xff;
  const uint32_t top = kBits<T> - 1;
  const bool sign = std::is_signed_v<T> && length != 0 && (a >> std::min(position + length - 1, top) & 1) != 0;
  const U field = position > top ? 0 : static_cast<U>(a) >> position;
  // Bits beyond the top of `a` are filled with the sign like those beyond the length.
  const U mask = low_bits<U>(position > top ? 0 : std::min(length, top + 1 - position));
  return static_cast<T>((field & mask) | (sign ? ~mask : 0));
}
template <typename U>
U bfi(U a, U b, uint32_t position, uint32_t length) {
  position &= 0xff;
  length &= 0xff;
  if (position >= kBits<U>) return b;
  const U mask = static_cast<U>(low_bits<U>(length) << position);
  return static_cast<U>((b & ~mask) | (a << position & mask));
}
template <bool Clamp>
uint32_t bmsk(uint32_t position, uint32_t width) {
  if (Clamp && position >= 32) return 0;
  const uint32_t start = position & 31, length = Clamp && width >= 32 ? 32 : width & 31;
  return low_bits<uint32_t>(length) << start;
}
template <typename T, bool Clamp>
T szext(T a, uint32_t width) {
  if (Clamp && width >= 32) return a;
  width &= 31;
  return width == 0 ? 0
                    : static_cast<T>(part(static_cast<uint32_t>(a), 0, static_cast<int>(width), std::is_signed_v<T>));
}

uint32_t nth_set(uint32_t mask, uint32_t base, int32_t offset) {
  constexpr uint32_t kNone = ~uint32_t{0};
  if (offset == 0) return mask >> base & 1 ? base : kNone;
  int64_t left = offset > 0 ? int64_t{offset} : -int64_t{offset};
  for (int64_t at = base; at >= 0 && at < 32; at += offset > 0 ? 1 : -1) {
    if ((mask >> at & 1) != 0 && --left == 0) return static_cast<uint32_t>(at);
  }
  return kNone;
}
Outcome fns(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  Row& result = warp.destination(instruction.operands[0]);
  const Row &mask = warp.source(instruction.operands[1]), &base = warp.source(instruction.operands[2]),
            &offset = warp.source(instruction.operands[3]);
  for_lanes(lanes, [&](int lane) {
    const auto start = from_bits<uint32_t>(base[lane]);
    if (start > 31) warp.fault(instruction, lane, "the base of fns is " + std::to_string(start) + ", not 0 to 31");
    result[lane] = nth_set(from_bits<uint32_t>(mask[lane]), start, from_bits<int32_t>(offset[lane]));
  });
  return Outcome::kDone;
}

// --- Carry chains

enum class Product { kNone, kLow, kHigh };
struct Carries {
  bool in, out;
};

// x + y, or x - y as x + ~y + 1, where x is the first source, or the product of the first two. A difference thus sets
// the flag when there is no borrow; the ISA does not say so, but nvcc's division of 128 bits reads it with addc.
template <typename T, bool Subtract, Product P>
Outcome with_carry(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  using U = std::make_unsigned_t<T>;
  const auto carries = from_bits<Carries>(instruction.detail[0]);
  Row& result = warp.destination(instruction.operands[0]);
  const Row &first = warp.source(instruction.operands[1]), &second = warp.source(instruction.operands[2]);
  const Row& last = warp.source(instruction.operands.back());
  const uint32_t flags = warp.carry();
  uint32_t overflow = 0;
  for_lanes(lanes, [&](int lane) {
    const auto a = from_bits<T>(first[lane]), b = from_bits<T>(second[lane]);
    const auto x = static_cast<U>(P == Product::kNone ? a : P == Product::kLow ? mul_lo(a, b) : mul_hi(a, b));
    const auto y = from_bits<U>(Subtract ? ~last[lane] : last[lane]);
    const uint32_t carry = carries.in ? flags >> lane & 1 : Subtract;
    const Uint128 sum = static_cast<Uint128>(x) + y + carry;
    result[lane] = static_cast<U>(sum);
    overflow |= static_cast<uint32_t>(sum >> kBits<T> & 1) << lane;
  });
  if (carries.out) warp.carry() = (flags & ~lanes) | overflow;
  return Outcome::kDone;
}

void set_carries(Instruction& instruction, bool in, bool out) { instruction.detail[0] = to_bits(Carries{in, out}); }

template <bool Subtract, Product P>
Execute carry_form(std::string_view type) {
  if (type == "u16" || type == "s16") return nullptr;
  return for_integer(type, [](auto t) -> Execute {
    if constexpr (sizeof t == 2) {
      return nullptr;
    } else {
      return &with_carry<decltype(t), Subtract, P>;
    }
  });
}

// --- Decoders

template <bool Subtract>
Execute plain_sum(std::string_view type) {
  if (!Subtract && (type == "u16x2" || type == "s16x2")) return pairwise<add<uint16_t>>;
  return for_integer(type, [](auto t) { return lanewise<sum<Subtract, decltype(t)>>; });
}

template <bool Subtract>
bool decode_sum(Instruction& instruction) {
  if (is_float(instruction.type())) return false;
  AluForm form(instruction);
  const auto type = form.take_type();
  if (form.take("cc")) {
    set_carries(instruction, false, true);
    return finish(instruction, form, "rvv", carry_form<Subtract, Product::kNone>(type));
  }
  if (form.take("sat")) {
    return finish(instruction, form, "rvv", type == "s32" ? lanewise<sum_sat<Subtract>> : nullptr);
  }
  return finish(instruction, form, "rvv", plain_sum<Subtract>(type));
}

template <bool Subtract>
bool decode_sum_with_carry(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  set_carries(instruction, true, form.take("cc"));
  return finish(instruction, form, "rvv", carry_form<Subtract, Product::kNone>(type));
}

bool decode_mul(Instruction& instruction) {
  if (is_float(instruction.type())) return false;
  AluForm form(instruction);
  const auto type = form.take_type();
  Execute execute = nullptr;
  switch (form.take_one_of({"lo", "hi", "wide"})) {
    case 0: execute = for_integer(type, [](auto t) { return lanewise<mul_lo<decltype(t)>>; }); break;
    case 1: execute = for_integer(type, [](auto t) { return lanewise<mul_hi<decltype(t)>>; }); break;
    case 2:
      execute = for_integer(type, [](auto t) -> Execute {
        if constexpr (sizeof t == 8) {
          return nullptr;
        } else {
          return lanewise<mul_wide<decltype(t)>>;
        }
      });
      break;
    default: break;
  }
  return finish(instruction, form, "rvv", execute);
}

bool decode_mad(Instruction& instruction) {
  if (is_float(instruction.type())) return false;
  AluForm form(instruction);
  const auto type = form.take_type();
  const int half = form.take_one_of({"lo", "hi", "wide"});
  Execute execute = nullptr;
  if (half < 2 && form.take("cc")) {
    set_carries(instruction, false, true);
    execute = half == 0 ? carry_form<false, Product::kLow>(type) : carry_form<false, Product::kHigh>(type);
  } else if (half == 0) {
    execute = for_integer(type, [](auto t) { return lanewise<mad_lo<decltype(t)>>; });
  } else if (half == 1 && form.take("sat")) {
    if (type == "s32") execute = lanewise<mad_hi_sat>;
  } else if (half == 1) {
    execute = for_integer(type, [](auto t) { return lanewise<mad_hi<decltype(t)>>; });
  } else if (half == 2) {
    execute = for_integer(type, [](auto t) -> Execute {
      if constexpr (sizeof t == 8) {
        return nullptr;
      } else {
        return lanewise<mad_wide<decltype(t)>>;
      }
    });
  }
  return finish(instruction, form, "rvvv", execute);
}

bool decode_madc(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  const int half = form.take_one_of({"lo", "hi"});
  set_carries(instruction, true, form.take("cc"));
  Execute execute = nullptr;
  if (half == 0) execute = carry_form<false, Product::kLow>(type);
  if (half == 1) execute = carry_form<false, Product::kHigh>(type);
  return finish(instruction, form, "rvvv", execute);
}

template <typename Make>
Execute for_word(std::string_view type, Make make) {
  if (type == "u32") return make(uint32_t{});
  if (type == "s32") return make(int32_t{});
  return nullptr;
}

bool decode_mul24(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  Execute execute = nullptr;
  switch (form.take_one_of({"lo", "hi"})) {
    case 0: execute = for_word(type, [](auto t) { return lanewise<mul24_lo<decltype(t)>>; }); break;
    case 1: execute = for_word(type, [](auto t) { return lanewise<mul24_hi<decltype(t)>>; }); break;
    default: break;
  }
  return finish(instruction, form, "rvv", execute);
}

bool decode_mad24(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  const int half = form.take_one_of({"lo", "hi"});
  Execute execute = nullptr;
  if (half == 0) execute = for_word(type, [](auto t) { return lanewise<mad24_lo<decltype(t)>>; });
  if (half == 1 && form.take("sat")) {
    if (type == "s32") execute = lanewise<mad24_hi_sat>;
  } else if (half == 1) {
    execute = for_word(type, [](auto t) { return lanewise<mad24_hi<decltype(t)>>; });
  }
  return finish(instruction, form, "rvvv", execute);
}

bool decode_div(Instruction& instruction) {
  if (is_float(instruction.type())) return false;
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rvv", for_integer(type, [](auto t) { return lanewise<div<decltype(t)>>; }));
}

bool decode_rem(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rvv", for_integer(type, [](auto t) { return lanewise<rem<decltype(t)>>; }));
}

template <bool Negate>
bool decode_sign(Instruction& instruction) {
  if (is_float(instruction.type())) return false;
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rv", for_integer(type, [](auto t) -> Execute {
                  using T = decltype(t);
                  if constexpr (std::is_signed_v<T>) {
                    return lanewise<sign<Negate, T>>;
                  } else {
                    return nullptr;
                  }
                }));
}

template <bool Max>
bool decode_min_max(Instruction& instruction) {
  if (is_float(instruction.type())) return false;
  AluForm form(instruction);
  const bool relu = form.take("relu");  // before the type, but CUDA's headers write it behind
  const auto type = form.take_type();
  Execute execute = nullptr;
  if (relu) {
    if (type == "s16x2") execute = pairwise<extreme_relu<Max, int16_t>>;
    if (type == "s32") execute = lanewise<extreme_relu<Max, int32_t>>;
  } else if (type == "s16x2") {
    execute = pairwise<extreme<Max, int16_t>>;
  } else if (type == "u16x2") {
    execute = pairwise<extreme<Max, uint16_t>>;
  } else {
    execute = for_integer(type, [](auto t) { return lanewise<extreme<Max, decltype(t)>>; });
  }
  return finish(instruction, form, "rvv", execute);
}

bool decode_sad(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rvvv", for_integer(type, [](auto t) { return lanewise<sad<decltype(t)>>; }));
}

template <typename Make>
Execute for_b32_b64(std::string_view type, Make make) {
  if (type == "b32") return make(uint32_t{});
  if (type == "b64") return make(uint64_t{});
  return nullptr;
}

bool decode_popc(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rv", for_b32_b64(type, [](auto t) { return lanewise<popc<decltype(t)>>; }));
}

bool decode_clz(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rv", for_b32_b64(type, [](auto t) { return lanewise<clz<decltype(t)>>; }));
}

bool decode_brev(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rv", for_b32_b64(type, [](auto t) { return lanewise<brev<decltype(t)>>; }));
}

// Types of 32 and 64 bits, of for_integer's.
template <typename Make>
Execute for_u32_to_s64(std::string_view type, Make make) {
  return for_integer(type, [make](auto t) -> Execute {
    if constexpr (sizeof t == 2) {
      return nullptr;
    } else {
      return make(t);
    }
  });
}

bool decode_bfind(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  const bool shift = form.take("shiftamt");
  return finish(instruction, form, "rv", for_u32_to_s64(type, [shift](auto t) {
                  return shift ? lanewise<bfind<decltype(t), true>> : lanewise<bfind<decltype(t), false>>;
                }));
}

bool decode_fns(Instruction& instruction) {
  AluForm form(instruction);
  return finish(instruction, form, "rvvv", form.take_type() == "b32" ? &fns : nullptr);
}

bool decode_bfe(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rvvv", for_u32_to_s64(type, [](auto t) { return lanewise<bfe<decltype(t)>>; }));
}

bool decode_bfi(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rvvvv", for_b32_b64(type, [](auto t) { return lanewise<bfi<decltype(t)>>; }));
}

bool decode_bmsk(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  const int mode = form.take_one_of({"clamp", "wrap"});
  Execute execute = nullptr;
  if (type == "b32" && mode == 0) execute = lanewise<bmsk<true>>;
  if (type == "b32" && mode == 1) execute = lanewise<bmsk<false>>;
  return finish(instruction, form, "rvv", execute);
}

bool decode_szext(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  const int mode = form.take_one_of({"clamp", "wrap"});
  return finish(instruction, form, "rvv", for_word(type, [mode](auto t) -> Execute {
                  if (mode < 0) return nullptr;
                  return mode == 0 ? lanewise<szext<decltype(t), true>> : lanewise<szext<decltype(t), false>>;
                }));
}

// Whether the last modifier, which is taken, is s32 and not u32.
bool takes_signed(const Instruction& instruction, AluForm& form) {
  const auto type = form.take_type();
  if (type != "s32" && type != "u32") unsupported(instruction, "type ." + std::string(type));
  return type == "s32";
}

bool decode_dp4a(Instruction& instruction) {
  AluForm form(instruction);
  const bool b = takes_signed(instruction, form), a = takes_signed(instruction, form);
  const Execute execute = for_flag(a, [b](auto is_a) {
    return for_flag(b, [](auto is_b) { return lanewise<dp4a<decltype(is_a)::value, decltype(is_b)::value>>; });
  });
  return finish(instruction, form, "rvvv", execute);
}

bool decode_dp2a(Instruction& instruction) {
  AluForm form(instruction);
  const bool b = takes_signed(instruction, form), a = takes_signed(instruction, form);
  const int half = form.take_one_of({"lo", "hi"});
  if (half < 0) unsupported(instruction, "neither .lo nor .hi");
  const Execute execute = for_flag(a, [b, half](auto is_a) {
    return for_flag(b, [half](auto is_b) {
      constexpr bool kA = decltype(is_a)::value, kB = decltype(is_b)::value;
      return half == 1 ? lanewise<dp2a<kA, kB, true>> : lanewise<dp2a<kA, kB, false>>;
    });
  });
  return finish(instruction, form, "rvvv", execute);
}

}  // namespace

void add_integer(InstructionSet& set) {
  set.add("add", decode_sum<false>);
  set.add("sub", decode_sum<true>);
  set.add("addc", decode_sum_with_carry<false>);
  set.add("subc", decode_sum_with_carry<true>);
  set.add("mul", decode_mul);
  set.add("mad", decode_mad);
  set.add("madc", decode_madc);
  set.add("mul24", decode_mul24);
  set.add("mad24", decode_mad24);
  set.add("div", decode_div);
  set.add("rem", decode_rem);
  set.add("abs", decode_sign<false>);
  set.add("neg", decode_sign<true>);
  set.add("min", decode_min_max<false>);
  set.add("max", decode_min_max<true>);
  set.add("sad", decode_sad);
  set.add("popc", decode_popc);
  set.add("clz", decode_clz);
  set.add("brev", decode_brev);
  set.add("bfind", decode_bfind);
  set.add("fns", decode_fns);
  set.add("bfe", decode_bfe);
  set.add("bfi", decode_bfi);
  set.add("bmsk", decode_bmsk);
  set.add("szext", decode_szext);
  set.add("dp4a", decode_dp4a);
  set.add("dp2a", decode_dp2a);
}

}  // namespace ptx
