// Comparisons and selections of all types.
#include "alu.h"
#include "number.h"

namespace ptx {
namespace {

// Ordered comparisons are false when an operand is NaN, the unordered ones (..u) true.
enum class Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };

template <Comparison C, typename V>
bool compare(V a, V b) {
  switch (C) {
    case Comparison::kEq: return a == b;
    case Comparison::kNe: return a < b || a > b;
    case Comparison::kLt: return a < b;
    case Comparison::kLe: return a <= b;
    case Comparison::kGt: return a > b;
    case Comparison::kGe: return a >= b;
    case Comparison::kEqu: return !(a < b || a > b);
    case Comparison::kNeu: return !(a == b);
    case Comparison::kLtu: return !(a >= b);
    case Comparison::kLeu: return !(a > b);
    case Comparison::kGtu: return !(a <= b);
    case Comparison::kGeu: return !(a < b);
    case Comparison::kNum: return a == a && b == b;
    case Comparison::kNan: break;
  }
  return !(a == a && b == b);
}

// What a row holds, as a number that C++ compares.
template <typename T>
struct Plain {
  static T of(uint64_t bits) { return from_bits<T>(bits); }
};
struct FlushedFloat {
  static float of(uint64_t bits) { return flushed(from_bits<float>(bits)); }
};
template <typename H, bool Flush, bool High>
struct Small {
  static double of(uint64_t bits) {
    const auto half = from_bits<H>(High ? bits >> 16 : bits);
    return (Flush ? flushed(half) : half).value();
  }
};

// The lanes in which a comparison of two rows holds. setp and set call it through instruction.detail.
using Compares = uint32_t (*)(const Row& a, const Row& b, uint32_t lanes);

template <typename Read, Comparison C>
uint32_t compare_rows(const Row& a, const Row& b, uint32_t lanes) {
  uint32_t holds = 0;
  each_lane(lanes, [&](int lane) {
    holds |= static_cast<uint32_t>(compare<C>(Read::of(a[lane]), Read::of(b[lane]))) << lane;
  });
  return holds;
}

template <typename Read>
Compares comparison_of_floats(int comparison) {
  constexpr Compares kAll[] = {&compare_rows<Read, Comparison::kEq>,  &compare_rows<Read, Comparison::kNe>,
                               &compare_rows<Read, Comparison::kLt>,  &compare_rows<Read, Comparison::kLe>,
                               &compare_rows<Read, Comparison::kGt>,  &compare_rows<Read, Comparison::kGe>,
                               &compare_rows<Read, Comparison::kEqu>, &compare_rows<Read, Comparison::kNeu>,
                               &compare_rows<Read, Comparison::kLtu>, &compare_rows<Read, Comparison::kLeu>,
                               &compare_rows<Read, Comparison::kGtu>, &compare_rows<Read, Comparison::kGeu>,
                               &compare_rows<Read, Comparison::kNum>, &compare_rows<Read, Comparison::kNan>};
  return kAll[comparison];
}

template <typename T>
Compares comparison_of_integers(int comparison) {
  constexpr Compares kAll[] = {&compare_rows<Plain<T>, Comparison::kEq>, &compare_rows<Plain<T>, Comparison::kNe>,
                               &compare_rows<Plain<T>, Comparison::kLt>, &compare_rows<Plain<T>, Comparison::kLe>,
                               &compare_rows<Plain<T>, Comparison::kGt>, &compare_rows<Plain<T>, Comparison::kGe>};
  return comparison < 6 ? kAll[comparison] : nullptr;
}

struct Comparer {
  Compares low = nullptr, high = nullptr;  // high: of the upper half of packed types
};

template <typename H>
Comparer comparison_of_halves(int comparison, bool flush, bool packed) {
  Comparer result;
  result.low = flush ? comparison_of_floats<Small<H, true, false>>(comparison)
                     : comparison_of_floats<Small<H, false, false>>(comparison);
  if (packed) {
    result.high = flush ? comparison_of_floats<Small<H, true, true>>(comparison)
                        : comparison_of_floats<Small<H, false, true>>(comparison);
  }
  return result;
}

Comparer comparer(std::string_view type, int comparison, bool unsigned_name, bool flush) {
  if (type == "f16" || type == "f16x2") return comparison_of_halves<Half>(comparison, flush, type == "f16x2");
  if (flush && type != "f32") return {};
  if (unsigned_name && type[0] != 'u') return {};
  if (type == "bf16" || type == "bf16x2") return comparison_of_halves<Bfloat>(comparison, false, type == "bf16x2");
  if (type == "f32" && flush) return {comparison_of_floats<FlushedFloat>(comparison)};
  if (type == "f32") return {comparison_of_floats<Plain<float>>(comparison)};
  if (type == "f64") return {comparison_of_floats<Plain<double>>(comparison)};
  if (type[0] == 'b' && comparison > 1) return {};  // bits are equal or not
  if (type == "b16" || type == "u16") return {comparison_of_integers<uint16_t>(comparison)};
  if (type == "b32" || type == "u32") return {comparison_of_integers<uint32_t>(comparison)};
  if (type == "b64" || type == "u64") return {comparison_of_integers<uint64_t>(comparison)};
  if (type == "s16") return {comparison_of_integers<int16_t>(comparison)};
  if (type == "s32") return {comparison_of_integers<int32_t>(comparison)};
  if (type == "s64") return {comparison_of_integers<int64_t>(comparison)};
  return {};
}

// --- setp and set. detail: the two comparers, how they combine with the last operand, what set writes where it holds.

enum Detail { kLow, kHigh, kCombine, kLowValue, kHighValue };
enum class Combine : uint64_t { kNone, kAnd, kOr, kXor };

uint32_t combined(Combine combine, uint32_t holds, uint32_t other) {
  switch (combine) {
    case Combine::kAnd: return holds & other;
    case Combine::kOr: return holds | other;
    case Combine::kXor: return holds ^ other;
    case Combine::kNone: break;
  }
  return holds;
}

struct Result {
  uint32_t low, high, other;
  Combine combine;
};

Result compare_operands(const Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const auto& detail = instruction.detail;
  const Row &a = warp.source(instruction.operands[1]), &b = warp.source(instruction.operands[2]);
  const auto combine = static_cast<Combine>(detail[kCombine]);
  const uint32_t other = combine == Combine::kNone ? 0 : warp.holds(instruction.operands[3]);
  const auto low = from_bits<Compares>(detail[kLow]), high = from_bits<Compares>(detail[kHigh]);
  return {low(a, b, lanes), high != nullptr ? high(a, b, lanes) : 0, other, combine};
}

Outcome setp(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Operand& destination = instruction.operands[0];
  const Result r = compare_operands(warp, instruction, lanes);
  // Of packed types the second predicate is that of the upper halves; of others, that of the opposite comparison.
  const uint32_t second = instruction.detail[kHigh] != 0 ? r.high : ~r.low;
  write_predicate(warp, destination.index, lanes, combined(r.combine, r.low, r.other));
  write_predicate(warp, destination.pair, lanes, combined(r.combine, second, r.other));
  return Outcome::kDone;
}

Outcome set(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  Row& destination = warp.destination(instruction.operands[0]);
  const Result r = compare_operands(warp, instruction, lanes);
  const uint32_t low = combined(r.combine, r.low, r.other);
  const uint32_t high = instruction.detail[kHigh] != 0 ? combined(r.combine, r.high, r.other) : 0;
  each_lane(lanes, [&](int lane) {
    destination[lane] =
        (low >> lane & 1 ? instruction.detail[kLowValue] : 0) | (high >> lane & 1 ? instruction.detail[kHighValue] : 0);
  });
  return Outcome::kDone;
}

// Takes the comparison and what it combines with; fills the comparers. Returns whether there is a predicate to combine.
bool take_comparison(Instruction& instruction, AluForm& form, std::string_view type) {
  const bool flush = form.take("ftz");
  int comparison =
      form.take_one_of({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
  bool unsigned_name = false;
  if (comparison < 0) {
    const int name = form.take_one_of({"lo", "ls", "hi", "hs"});
    if (name < 0) unsupported(instruction, "no comparison");
    unsigned_name = true;
    comparison = name + 2;
  }
  const Comparer compares = comparer(type, comparison, unsigned_name, flush);
  if (compares.low == nullptr) unsupported(instruction, "this comparison of type ." + std::string(type));
  instruction.detail[kLow] = to_bits(compares.low);
  instruction.detail[kHigh] = to_bits(compares.high);
  const int combine = form.take_one_of({"and", "or", "xor"});
  instruction.detail[kCombine] = static_cast<uint64_t>(combine + 1);
  return combine >= 0;
}

bool decode_setp(Instruction& instruction) {
  AluForm form(instruction);
  const bool combines = take_comparison(instruction, form, form.take_type());
  return finish(instruction, form, combines ? "Pvvq" : "Pvv", &setp);
}

// What `set` writes for true; 0 for a type that it does not write.
uint64_t true_value(std::string_view type) {
  if (type == "u32" || type == "s32") return 0xffff'ffff;
  if (type == "u16" || type == "s16") return 0xffff;
  if (type == "f32") return 0x3f80'0000;
  if (type == "f16" || type == "f16x2") return 0x3c00;
  if (type == "bf16" || type == "bf16x2") return 0x3f80;
  return 0;
}

bool decode_set(Instruction& instruction) {
  AluForm form(instruction);
  const auto source = form.take_type(), destination = form.take_type();
  const bool combines = take_comparison(instruction, form, source);
  uint64_t value = true_value(destination);
  const bool packed = instruction.detail[kHigh] != 0, word = destination == "u32" || destination == "s32";
  if (packed ? !word && destination != source : destination.find("x2") != std::string_view::npos) value = 0;
  if (value == 0) unsupported(instruction, "a result of type ." + std::string(destination));
  if (packed && word) value = 0xffff;
  instruction.detail[kLowValue] = value;
  instruction.detail[kHighValue] = value << 16;
  return finish(instruction, form, combines ? "rvvq" : "rvv", &set);
}

// --- Selections

template <typename U>
Outcome selp(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  Row& result = warp.destination(instruction.operands[0]);
  const Row &a = warp.source(instruction.operands[1]), &b = warp.source(instruction.operands[2]);
  const uint32_t first = warp.holds(instruction.operands[3]);
  each_lane(lanes, [&](int lane) { result[lane] = from_bits<U>((first >> lane & 1 ? a : b)[lane]); });
  return Outcome::kDone;
}

template <typename U>
U slct_integer(U a, U b, int32_t c) {
  return c >= 0 ? a : b;
}
template <typename U, bool Flush>
U slct_float(U a, U b, float c) {
  return (Flush ? flushed(c) : c) >= 0 ? a : b;
}

// Types of which only the size matters.
template <typename Make>
Execute for_size(std::string_view type, Make make) {
  if (type.size() == 3 && std::string_view("busf").find(type[0]) != std::string_view::npos) {
    const auto size = type.substr(1);
    if (size == "32") return make(uint32_t{});
    if (size == "64") return make(uint64_t{});
    if (size == "16" && type[0] != 'f') return make(uint16_t{});
  }
  return nullptr;
}

bool decode_selp(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rvvq", for_size(type, [](auto t) { return &selp<decltype(t)>; }));
}

bool decode_slct(Instruction& instruction) {
  AluForm form(instruction);
  const auto control = form.take_type(), type = form.take_type();
  const bool is_float = control == "f32", flush = is_float && form.take("ftz");
  if (!is_float && control != "s32") unsupported(instruction, "it decides by ." + std::string(control));
  return finish(instruction, form, "rvvv", for_size(type, [is_float, flush](auto t) {
                  using U = decltype(t);
                  if (!is_float) return lanewise<slct_integer<U>>;
                  return flush ? lanewise<slct_float<U, true>> : lanewise<slct_float<U, false>>;
                }));
}

}  // namespace

void add_compare(InstructionSet& instructions) {
  instructions.add("setp", decode_setp);
  instructions.add("set", decode_set);
  instructions.add("selp", decode_selp);
  instructions.add("slct", decode_slct);
}

}  // namespace ptx
