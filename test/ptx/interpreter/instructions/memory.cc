// ld and st in every state space, and the hints that need not be taken.
#include <string_view>

#include "../instruction_set.h"
#include "../machine.h"
#include "form.h"

namespace ptx {
namespace {

enum Detail { kBytes, kCount, kSpace };

// A value of 1, 2, 4 or 8 bytes as a register holds it. Signed types are extended to whichever width it has.
template <bool kSigned>
uint64_t read(const uint8_t* from, uint64_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, from, bytes);
  if (!kSigned || bytes == 8) return value;
  const auto unused = static_cast<int>(64 - 8 * bytes);
  return static_cast<uint64_t>(static_cast<int64_t>(value << unused) >> unused);
}

template <bool kSigned, bool kVector>
Outcome ld(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const uint64_t bytes = instruction.detail[kBytes], count = instruction.detail[kCount];
  const auto space = static_cast<Space>(instruction.detail[kSpace]);
  const Operand &to = instruction.operands[0], &from = instruction.operands[1];
  for_lanes(lanes, [&](int lane) {
    const uint8_t* data =
        warp.memory(instruction, lane, space, warp.address(from, lane), bytes * count, bytes * count, Access::kRead);
    if (!kVector) {
      warp.destination(to)[lane] = read<kSigned>(data, bytes);
    } else {
      // The address may be one of the destinations, so that it is not read again.
      for (uint64_t i = 0; i < count; i++) {
        warp.destination(to.elements[i])[lane] = read<kSigned>(data + i * bytes, bytes);
      }
    }
  });
  return Outcome::kDone;
}

template <bool kVector>
Outcome st(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const uint64_t bytes = instruction.detail[kBytes], count = instruction.detail[kCount];
  const auto space = static_cast<Space>(instruction.detail[kSpace]);
  const Operand &to = instruction.operands[0], &from = instruction.operands[1];
  for_lanes(lanes, [&](int lane) {
    uint8_t* data =
        warp.memory(instruction, lane, space, warp.address(to, lane), bytes * count, bytes * count, Access::kWrite);
    if (!kVector) {
      std::memcpy(data, &warp.source(from)[lane], bytes);
    } else {
      for (uint64_t i = 0; i < count; i++) std::memcpy(data + i * bytes, &warp.source(from.elements[i])[lane], bytes);
    }
  });
  return Outcome::kDone;
}

Outcome nothing(Warp&, const Instruction&, uint32_t) { return Outcome::kDone; }

struct Type {
  std::string_view name;
  uint64_t bytes;
  bool is_signed;
};
constexpr Type kTypes[] = {{"b8", 1, false},  {"u8", 1, false},  {"s8", 1, true},   {"b16", 2, false},
                           {"u16", 2, false}, {"s16", 2, true},  {"f16", 2, false}, {"bf16", 2, false},
                           {"b32", 4, false}, {"u32", 4, false}, {"s32", 4, true},  {"f32", 4, false},
                           {"b64", 8, false}, {"u64", 8, false}, {"s64", 8, false}, {"f64", 8, false}};

const Type& take_type(const Instruction& instruction, Modifiers& modifiers) {
  for (const Type& type : kTypes) {
    if (modifiers.accept(type.name)) return type;
  }
  unsupported(instruction, "a type of this kind in memory");
}

// .weak, .volatile, .relaxed.gpu, .acquire.cta ...: the interpreter's memory is sequentially consistent.
void take_order(Modifiers& modifiers) {
  if (modifiers.accept("weak") || modifiers.accept("volatile")) return;
  if (modifiers.accept("relaxed") || modifiers.accept("acquire") || modifiers.accept("release") ||
      modifiers.accept("mmio")) {
    modifiers.choose({"cta", "cluster", "gpu", "sys"});
  }
}

Space take_space(Modifiers& modifiers) {
  if (modifiers.accept("global")) return Space::kGlobal;
  if (modifiers.accept("shared") || modifiers.accept("shared::cta") || modifiers.accept("shared::cluster")) {
    return Space::kShared;
  }
  if (modifiers.accept("local")) return Space::kLocal;
  if (modifiers.accept("param") || modifiers.accept("param::entry") || modifiers.accept("param::func")) {
    return Space::kParam;
  }
  if (modifiers.accept("const")) return Space::kConst;
  return Space::kGeneric;
}

// Cache operators and priorities; true when a cache policy follows the operands.
bool take_hints(Modifiers& modifiers) {
  for (const auto* cache : {"ca", "cg", "cs", "lu", "cv", "wb", "wt"}) modifiers.accept(cache);
  modifiers.accept("nc");
  for (const auto* priority : {"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last",
                               "L1::no_allocate", "L2::evict_normal", "L2::evict_first", "L2::evict_last"}) {
    modifiers.accept(priority);
  }
  const bool policy = modifiers.accept("L2::cache_hint");
  for (const auto* prefetch : {"L2::64B", "L2::128B", "L2::256B"}) modifiers.accept(prefetch);
  return policy;
}

// The common form of ld and st; the place of the value differs.
void decode_access(Instruction& instruction, size_t value, bool is_load) {
  Modifiers modifiers(instruction);
  take_order(modifiers);
  instruction.detail[kSpace] = static_cast<uint64_t>(take_space(modifiers));
  const bool policy = take_hints(modifiers);
  const uint64_t count = modifiers.accept("v2") ? 2 : modifiers.accept("v4") ? 4 : modifiers.accept("v8") ? 8 : 0;
  const Type& type = take_type(instruction, modifiers);
  modifiers.end();
  require_no_pair(instruction);
  const auto& operands = instruction.operands;
  require(instruction, operands.size() == (policy ? 3 : 2) && operands[1 - value].kind == Operand::Kind::kAddress,
          "operands other than a value and an address");
  require(instruction, type.bytes * count <= 32, "a vector of more than 32 bytes");
  const auto fits = [&](const Operand& operand) { return is_load ? is_destination(operand) : is_source(operand); };
  if (count == 0) {
    require(instruction, fits(operands[value]), "a value that is no register");
  } else {
    require(instruction, operands[value].kind == Operand::Kind::kVector && operands[value].elements.size() == count,
            "a vector of another length");
    for (const Operand& element : operands[value].elements) {
      require(instruction, fits(element), "an element that is no register");
    }
  }
  instruction.detail[kBytes] = type.bytes;
  instruction.detail[kCount] = count == 0 ? 1 : count;
  if (is_load && type.is_signed) {
    instruction.execute = count > 0 ? ld<true, true> : ld<true, false>;
  } else if (is_load) {
    instruction.execute = count > 0 ? ld<false, true> : ld<false, false>;
  } else {
    instruction.execute = count > 0 ? st<true> : st<false>;
  }
}

bool decode_ld(Instruction& instruction) {
  decode_access(instruction, 0, true);
  return true;
}

bool decode_st(Instruction& instruction) {
  if (instruction.has("async") || instruction.has("bulk")) return false;
  decode_access(instruction, 1, false);
  return true;
}

// prefetch{u} and discard change nothing that a program can see, tensor maps apart (copy_bulk.cc).
bool decode_hint(Instruction& instruction) {
  if (instruction.has("tensormap")) return false;
  Modifiers modifiers(instruction);
  if (!modifiers.accept("global")) modifiers.accept("local");
  const auto& operands = instruction.operands;
  if (instruction.opcode == "discard") {
    modifiers.expect("L2");
    require(instruction,
            operands.size() == 2 && operands[1].kind == Operand::Kind::kConstant && (*operands[1].constant)[0] == 128,
            "a size other than 128");
  } else {
    modifiers.choose({"L1", "L2", "L2::evict_last", "L2::evict_normal"});
    require(instruction, operands.size() == 1, "operands other than an address");
  }
  require(instruction, operands[0].kind == Operand::Kind::kAddress, "operands other than an address");
  modifiers.end();
  instruction.execute = nothing;
  return true;
}

bool decode_policy(Instruction& instruction) {
  instruction.execute = nothing;
  return true;
}

}  // namespace

void add_memory(InstructionSet& set) {
  set.add("ld", decode_ld);
  set.add("ldu", decode_ld);
  set.add("st", decode_st);
  set.add("prefetch", decode_hint);
  set.add("prefetchu", decode_hint);
  set.add("discard", decode_hint);
  set.add("createpolicy", decode_policy);  // its result is only handed on to hints
}

}  // namespace ptx
