// atom and red: lanes in ascending order, each at once.
#include <algorithm>

#include "../instruction_set.h"
#include "../machine.h"
#include "form.h"
#include "number.h"

namespace ptx {
namespace {

// What is in memory, and the operands b and c, as bits; the new content.
using Operation = uint64_t (*)(uint64_t old, uint64_t b, uint64_t c);

enum Detail { kBytes, kSpace, kOperation };

template <bool kResult>
Outcome atomic(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  constexpr size_t kAddress = kResult ? 1 : 0;
  const uint64_t bytes = instruction.detail[kBytes];
  const auto space = static_cast<Space>(instruction.detail[kSpace]);
  const auto operation = reinterpret_cast<Operation>(instruction.detail[kOperation]);
  const auto& operands = instruction.operands;
  const bool three = operands.size() > kAddress + 2;
  for_lanes(lanes, [&](int lane) {
    uint8_t* data =
        warp.memory(instruction, lane, space, warp.address(operands[kAddress], lane), bytes, bytes, Access::kReadWrite);
    uint64_t old = 0;
    std::memcpy(&old, data, bytes);
    const uint64_t b = warp.source(operands[kAddress + 1])[lane];
    const uint64_t changed = operation(old, b, three ? warp.source(operands[kAddress + 2])[lane] : 0);
    std::memcpy(data, &changed, bytes);
    if (kResult) warp.destination(operands[0])[lane] = old;
  });
  return Outcome::kDone;
}

template <typename T>
uint64_t add(uint64_t a, uint64_t b, uint64_t) {
  return to_bits<T>(static_cast<T>(from_bits<T>(a) + from_bits<T>(b)));
}
template <typename T>
uint64_t min(uint64_t a, uint64_t b, uint64_t) {
  return to_bits<T>(std::min(from_bits<T>(a), from_bits<T>(b)));
}
template <typename T>
uint64_t max(uint64_t a, uint64_t b, uint64_t) {
  return to_bits<T>(std::max(from_bits<T>(a), from_bits<T>(b)));
}
uint64_t bit_and(uint64_t a, uint64_t b, uint64_t) { return a & b; }
uint64_t bit_or(uint64_t a, uint64_t b, uint64_t) { return a | b; }
uint64_t bit_xor(uint64_t a, uint64_t b, uint64_t) { return a ^ b; }
uint64_t exchange(uint64_t, uint64_t b, uint64_t) { return b; }
template <typename T>
uint64_t compare_and_swap(uint64_t a, uint64_t b, uint64_t c) {
  return from_bits<T>(a) == from_bits<T>(b) ? c : a;
}
uint64_t increment(uint64_t a, uint64_t b, uint64_t) {
  return from_bits<uint32_t>(a) >= from_bits<uint32_t>(b) ? 0 : a + 1;
}
uint64_t decrement(uint64_t a, uint64_t b, uint64_t) {
  const auto old = from_bits<uint32_t>(a), most = from_bits<uint32_t>(b);
  return old == 0 || old > most ? most : old - 1;
}

template <float (*kWiden)(uint16_t), uint16_t (*kNarrow)(float)>
uint64_t add_half(uint64_t a, uint64_t b, uint64_t) {
  return kNarrow(kWiden(static_cast<uint16_t>(a)) + kWiden(static_cast<uint16_t>(b)));
}
template <float (*kWiden)(uint16_t), uint16_t (*kNarrow)(float)>
uint64_t add_halves(uint64_t a, uint64_t b, uint64_t) {
  return add_half<kWiden, kNarrow>(a & 0xffff, b & 0xffff, 0) |
         add_half<kWiden, kNarrow>(a >> 16 & 0xffff, b >> 16 & 0xffff, 0) << 16;
}

uint16_t to_half(float x) { return float_to_half(x); }
uint16_t to_bfloat(float x) { return float_to_bfloat(x); }

struct Form {
  std::string_view operation, type;
  uint64_t bytes;
  Operation execute;
  bool is_half = false;  // which must say .noftz
};
constexpr Form kForms[] = {
    {"add", "u32", 4, add<uint32_t>},
    {"add", "s32", 4, add<uint32_t>},
    {"add", "u64", 8, add<uint64_t>},
    {"add", "f32", 4, add<float>},
    {"add", "f64", 8, add<double>},
    {"add", "f16", 2, add_half<half_to_float, to_half>, true},
    {"add", "bf16", 2, add_half<bfloat_to_float, to_bfloat>, true},
    {"add", "f16x2", 4, add_halves<half_to_float, to_half>, true},
    {"add", "bf16x2", 4, add_halves<bfloat_to_float, to_bfloat>, true},
    {"min", "u32", 4, min<uint32_t>},
    {"min", "s32", 4, min<int32_t>},
    {"min", "u64", 8, min<uint64_t>},
    {"min", "s64", 8, min<int64_t>},
    {"max", "u32", 4, max<uint32_t>},
    {"max", "s32", 4, max<int32_t>},
    {"max", "u64", 8, max<uint64_t>},
    {"max", "s64", 8, max<int64_t>},
    {"and", "b32", 4, bit_and},
    {"and", "b64", 8, bit_and},
    {"or", "b32", 4, bit_or},
    {"or", "b64", 8, bit_or},
    {"xor", "b32", 4, bit_xor},
    {"xor", "b64", 8, bit_xor},
    {"exch", "b32", 4, exchange},
    {"exch", "b64", 8, exchange},
    {"cas", "b16", 2, compare_and_swap<uint16_t>},
    {"cas", "b32", 4, compare_and_swap<uint32_t>},
    {"cas", "b64", 8, compare_and_swap<uint64_t>},
    {"inc", "u32", 4, increment},
    {"dec", "u32", 4, decrement},
};

void take_one(Modifiers& modifiers, std::initializer_list<std::string_view> choices) {
  for (const auto& choice : choices) {
    if (modifiers.accept(choice)) return;
  }
}

bool decode_atomic(Instruction& instruction) {
  if (instruction.has("async")) return false;
  const bool result = instruction.opcode == "atom";
  Modifiers modifiers(instruction);
  take_one(modifiers, {"relaxed", "acquire", "release", "acq_rel"});
  take_one(modifiers, {"cta", "cluster", "gpu", "sys"});
  Space space = Space::kGeneric;
  if (modifiers.accept("global")) {
    space = Space::kGlobal;
  } else if (modifiers.accept("shared") || modifiers.accept("shared::cta") || modifiers.accept("shared::cluster")) {
    space = Space::kShared;
  }
  const Form* form = nullptr;
  for (const Form& candidate : kForms) {
    Modifiers rest = modifiers;
    if (!rest.accept(candidate.operation)) continue;
    if (candidate.is_half && !rest.accept("noftz")) continue;
    if (!rest.accept(candidate.type)) continue;
    rest.end();
    form = &candidate;
    break;
  }
  require(instruction, form != nullptr, "an operation or type of this kind");
  require_no_pair(instruction);
  const auto& operands = instruction.operands;
  const size_t address = result ? 1 : 0, sources = form->operation == "cas" ? 2 : 1;
  require(instruction,
          operands.size() == address + 1 + sources && operands[address].kind == Operand::Kind::kAddress &&
              (!result || is_destination(operands[0])),
          "operands of this kind");
  for (size_t i = address + 1; i < operands.size(); i++) require(instruction, is_source(operands[i]), "this operand");
  instruction.detail[kBytes] = form->bytes;
  instruction.detail[kSpace] = static_cast<uint64_t>(space);
  instruction.detail[kOperation] = reinterpret_cast<uint64_t>(form->execute);
  instruction.execute = result ? atomic<true> : atomic<false>;
  return true;
}

}  // namespace

void add_atomic(InstructionSet& set) {
  set.add("atom", decode_atomic);
  set.add("red", decode_atomic);
}

}  // namespace ptx
