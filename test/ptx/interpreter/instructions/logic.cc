// Bitwise logic on registers and predicates, shifts, byte permutation.
#include "alu.h"

namespace ptx {
namespace {

enum class Logic { kAnd, kOr, kXor, kNot };

template <Logic L, typename T>
T logic(T a, T b) {
  return static_cast<T>(L == Logic::kAnd ? a & b : L == Logic::kOr ? a | b : a ^ b);
}
template <typename T>
T bit_not(T a) {
  return static_cast<T>(~a);
}
template <typename T>
T cnot(T a) {
  return a == 0 ? 1 : 0;
}

// --- lop3: bit i of the table is the result for i = 4a + 2b + c

uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 8; i++) {
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}

template <bool Or>
Outcome lop3_predicate(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const auto& operands = instruction.operands;
  Row& result = warp.destination(operands[0]);
  const Row &a = warp.source(operands[1]), &b = warp.source(operands[2]), &c = warp.source(operands[3]);
  const auto table = from_bits<uint32_t>((*operands[4].constant)[0]);
  const uint32_t other = warp.holds(operands[5]);
  uint32_t nonzero = 0;
  each_lane(lanes, [&](int lane) {
    result[lane] =
        lop3(from_bits<uint32_t>(a[lane]), from_bits<uint32_t>(b[lane]), from_bits<uint32_t>(c[lane]), table);
    nonzero |= static_cast<uint32_t>(result[lane] != 0) << lane;
  });
  write_predicate(warp, operands[0].pair, lanes, Or ? nonzero | other : nonzero & other);
  return Outcome::kDone;
}

// --- Shifts. Amounts beyond the width count as the width; the vacated bits of .s types are the sign.

template <typename T>
T shl(T a, uint32_t amount) {
  return amount >= 8 * sizeof(T) ? 0 : static_cast<T>(a << amount);
}
template <typename T>
T shr(T a, uint32_t amount) {
  constexpr uint32_t kBits = 8 * sizeof(T);
  if (amount < kBits) return static_cast<T>(a >> amount);
  return static_cast<T>(a < 0 ? -1 : 0);
}

template <bool Left, bool Clamp>
uint32_t shf(uint32_t low, uint32_t high, uint32_t amount) {
  const uint64_t both = uint64_t{high} << 32 | low;
  const uint32_t n = Clamp ? std::min(amount, uint32_t{32}) : amount & 31;
  return static_cast<uint32_t>(Left ? both << n >> 32 : both >> n);
}

// --- prmt: each nibble of a selector names one of eight bytes; its top bit asks for that byte's sign instead

uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t nibble = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7) & 0xff);
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
}
// The modes choose among four selectors, which lie side by side in `selectors`, by the low bits of c.
uint32_t permute_by_mode(uint64_t selectors, uint32_t a, uint32_t b, uint32_t c) {
  return permute(a, b, static_cast<uint32_t>(selectors >> 16 * (c & 3) & 0xffff));
}
constexpr uint64_t kForward = 0x6543'5432'4321'3210, kBackward = 0x0123'7012'6701'5670,
                   kReplicate8 = 0x3333'2222'1111'0000, kEdgeLeft = 0x3333'3222'3211'3210,
                   kEdgeRight = 0x3210'2210'1110'0000, kReplicate16 = 0x3232'1010'3232'1010;

// --- Predicates

template <Logic L>
Outcome on_predicates(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const uint32_t a = warp.holds(instruction.operands[1]);
  const uint32_t result = L == Logic::kNot ? ~a : logic<L>(a, warp.holds(instruction.operands[2]));
  write_predicate(warp, instruction.operands[0].index, lanes, result);
  return Outcome::kDone;
}

// --- Decoders

template <Logic L>
bool decode_logic(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  if (type == "pred") return finish(instruction, form, L == Logic::kNot ? "pq" : "pqq", &on_predicates<L>);
  const Execute execute = for_bits(type, [](auto t) {
    using T = decltype(t);
    if constexpr (L == Logic::kNot) {
      return lanewise<bit_not<T>>;
    } else {
      return lanewise<logic<L, T>>;
    }
  });
  return finish(instruction, form, L == Logic::kNot ? "rv" : "rvv", execute);
}

bool decode_cnot(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rv", for_bits(type, [](auto t) { return lanewise<cnot<decltype(t)>>; }));
}

bool decode_lop3(Instruction& instruction) {
  AluForm form(instruction);
  const bool is_b32 = form.take_type() == "b32";
  const int combine = form.take_one_of({"or", "and"});
  const Execute execute = combine < 0 ? lanewise<lop3> : combine == 0 ? &lop3_predicate<true> : &lop3_predicate<false>;
  finish(instruction, form, combine < 0 ? "rvvvv" : "Rvvvvq", is_b32 ? execute : nullptr);
  if (instruction.operands[4].kind != Operand::Kind::kConstant) unsupported(instruction, "a table that is no number");
  return true;
}

bool decode_shl(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  return finish(instruction, form, "rvv", for_bits(type, [](auto t) { return lanewise<shl<decltype(t)>>; }));
}

bool decode_shr(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  const auto make = [](auto t) { return lanewise<shr<decltype(t)>>; };
  const Execute bits = for_bits(type, make);
  return finish(instruction, form, "rvv", bits != nullptr ? bits : for_integer(type, make));
}

bool decode_shf(Instruction& instruction) {
  AluForm form(instruction);
  const bool is_b32 = form.take_type() == "b32";
  const int direction = form.take_one_of({"l", "r"}), mode = form.take_one_of({"clamp", "wrap"});
  Execute execute = nullptr;
  if (is_b32 && direction >= 0 && mode >= 0) {
    execute = direction == 0 ? mode == 0 ? lanewise<shf<true, true>> : lanewise<shf<true, false>>
              : mode == 0 ? lanewise<shf<false, true>>
                             : lanewise<shf<false, false>>;
  }
  return finish(instruction, form, "rvvv", execute);
}

bool decode_prmt(Instruction& instruction) {
  // The mode is written behind the type.
  AluForm form(instruction);
  const bool is_b32 = form.take("b32");
  const int mode = form.take_one_of({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
  constexpr uint64_t kSelectors[] = {kForward, kBackward, kReplicate8, kEdgeLeft, kEdgeRight, kReplicate16};
  if (mode >= 0) instruction.detail[0] = kSelectors[mode];
  const Execute execute = mode < 0 ? lanewise<permute> : lanewise_with<permute_by_mode>;
  return finish(instruction, form, "rvvv", is_b32 ? execute : nullptr);
}

}  // namespace

void add_logic(InstructionSet& set) {
  set.add("and", decode_logic<Logic::kAnd>);
  set.add("or", decode_logic<Logic::kOr>);
  set.add("xor", decode_logic<Logic::kXor>);
  set.add("not", decode_logic<Logic::kNot>);
  set.add("cnot", decode_cnot);
  set.add("lop3", decode_lop3);
  set.add("shl", decode_shl);
  set.add("shr", decode_shr);
  set.add("shf", decode_shf);
  set.add("prmt", decode_prmt);
}

}  // namespace ptx
