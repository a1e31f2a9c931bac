// mov, packing and unpacking of registers included, and questions about addresses.
#include "alu.h"

namespace ptx {
namespace {

template <typename U>
U copy(U a) {
  return a;
}

Outcome mov_predicate(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  write_predicate(warp, instruction.operands[0].index, lanes, warp.holds(instruction.operands[1]));
  return Outcome::kDone;
}

uint64_t low_bits(uint64_t bits, int count) { return count == 64 ? bits : bits & ((uint64_t{1} << count) - 1); }

// {a, b, ...} to one register: the first element goes into the lowest bits. detail[0]: bits of an element.
Outcome pack(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  Row& result = warp.destination(instruction.operands[0]);
  const auto& elements = instruction.operands[1].elements;
  const int bits = static_cast<int>(instruction.detail[0]);
  each_lane(lanes, [&](int lane) {
    uint64_t packed = 0;
    int shift = 0;
    for (const Operand& element : elements) {
      packed |= low_bits(warp.source(element)[lane], bits) << shift;
      shift += bits;
    }
    result[lane] = packed;
  });
  return Outcome::kDone;
}

Outcome unpack(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row& source = warp.source(instruction.operands[1]);
  const int bits = static_cast<int>(instruction.detail[0]);
  int shift = 0;
  for (const Operand& element : instruction.operands[0].elements) {
    Row& result = warp.destination(element);
    each_lane(lanes, [&](int lane) { result[lane] = low_bits(source[lane] >> shift, bits); });
    shift += bits;
  }
  return Outcome::kDone;
}

// --- Addresses

bool in_window(uint64_t address, uint64_t window) { return (address & kWindowMask) == window; }

template <uint64_t Window>
Outcome isspacep_window(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row& address = warp.source(instruction.operands[1]);
  uint32_t holds = 0;
  for_lanes(lanes, [&](int lane) { holds |= static_cast<uint32_t>(in_window(address[lane], Window)) << lane; });
  write_predicate(warp, instruction.operands[0].index, lanes, holds);
  return Outcome::kDone;
}
// Whatever lies in no window.
Outcome isspacep_global(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Row& address = warp.source(instruction.operands[1]);
  uint32_t holds = 0;
  for_lanes(lanes, [&](int lane) {
    const bool elsewhere = in_window(address[lane], kSharedWindow) || in_window(address[lane], kLocalWindow) ||
                           in_window(address[lane], kParamWindow);
    holds |= static_cast<uint32_t>(!elsewhere) << lane;
  });
  write_predicate(warp, instruction.operands[0].index, lanes, holds);
  return Outcome::kDone;
}

// The address of the same variable in the shared memory of a block of the cluster: here that is always this block.
template <typename U>
Outcome mapa(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  Row& result = warp.destination(instruction.operands[0]);
  const Row &address = warp.source(instruction.operands[1]), &rank = warp.source(instruction.operands[2]);
  const Row& own = warp.row(kClusterCtarank);
  for_lanes(lanes, [&](int lane) {
    const auto wanted = from_bits<uint32_t>(rank[lane]);
    if (wanted != own[lane]) {
      warp.fault(instruction, lane, "the shared memory of another block (rank " + std::to_string(wanted) + ")");
    }
    result[lane] = from_bits<U>(address[lane]);
  });
  return Outcome::kDone;
}

template <bool Generic>
Outcome getctarank(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  Row& result = warp.destination(instruction.operands[0]);
  const Row& address = warp.source(instruction.operands[1]);
  const Row& own = warp.row(kClusterCtarank);
  for_lanes(lanes, [&](int lane) {
    if (Generic && !in_window(address[lane], kSharedWindow)) {
      warp.fault(instruction, lane, "an address outside shared memory");
    }
    result[lane] = own[lane];
  });
  return Outcome::kDone;
}

// --- Decoders

int bits_of(std::string_view type) {
  if (type.size() == 3 && std::string_view("busf").find(type[0]) != std::string_view::npos) {
    const auto size = type.substr(1);
    if (size == "16") return 16;
    if (size == "32") return 32;
    if (size == "64") return 64;
  }
  return 0;
}

// Sets up packing and unpacking: the elements share the bits of the type evenly.
bool decode_vector(Instruction& instruction, bool packs, int bits) {
  const Operand& vector = instruction.operands[packs ? 1 : 0];
  const Operand& whole = instruction.operands[packs ? 0 : 1];
  const size_t count = vector.elements.size();
  using Kind = Operand::Kind;
  if ((count != 2 && count != 4) || bits / static_cast<int>(count) < 8) unsupported(instruction, "this vector");
  for (const Operand& element : vector.elements) {
    const bool sink = element.kind == Kind::kSink && !packs, constant = element.kind == Kind::kConstant && packs;
    if (element.kind != Kind::kRegister && !sink && !constant) unsupported(instruction, "an element of the vector");
  }
  if (whole.kind != Kind::kRegister && (packs || whole.kind != Kind::kConstant)) unsupported(instruction, "operands");
  instruction.detail[0] = static_cast<uint64_t>(bits) / count;
  instruction.execute = packs ? &pack : &unpack;
  return true;
}

bool decode_mov(Instruction& instruction) {
  AluForm form(instruction);
  const auto type = form.take_type();
  if (type == "pred") return finish(instruction, form, "pq", &mov_predicate);
  const int bits = bits_of(type);
  if (bits == 0) unsupported(instruction, "type ." + std::string(type));
  const auto& operands = instruction.operands;
  if (operands.size() == 2 && instruction.modifiers.size() == 1) {
    if (operands[0].kind == Operand::Kind::kVector) return decode_vector(instruction, false, bits);
    if (operands[1].kind == Operand::Kind::kVector) return decode_vector(instruction, true, bits);
  }
  const Execute execute = bits == 16   ? lanewise<copy<uint16_t>>
                          : bits == 32 ? lanewise<copy<uint32_t>>
                                       : lanewise<copy<uint64_t>>;
  return finish(instruction, form, "rv", execute);
}

bool decode_isspacep(Instruction& instruction) {
  AluForm form(instruction);
  Execute execute = nullptr;
  switch (form.take_one_of({"global", "local", "shared", "shared::cta", "shared::cluster", "param", "param::entry"})) {
    case 0: execute = &isspacep_global; break;
    case 1: execute = &isspacep_window<kLocalWindow>; break;
    case 2:
    case 3:
    case 4: execute = &isspacep_window<kSharedWindow>; break;
    case 5:
    case 6: execute = &isspacep_window<kParamWindow>; break;
    default: break;
  }
  return finish(instruction, form, "pv", execute);
}

bool decode_mapa(Instruction& instruction) {
  AluForm form(instruction);
  const int bits = bits_of(form.take_type());
  form.take("shared::cluster");
  return finish(instruction, form, "rvv", bits == 32 ? &mapa<uint32_t> : bits == 64 ? &mapa<uint64_t> : nullptr);
}

bool decode_getctarank(Instruction& instruction) {
  AluForm form(instruction);
  const int bits = bits_of(form.take_type());
  const bool shared = form.take("shared::cluster");
  if (bits < 32) unsupported(instruction, "type");
  return finish(instruction, form, "rv", shared ? &getctarank<false> : &getctarank<true>);
}

}  // namespace

void add_move(InstructionSet& set) {
  set.add("mov", decode_mov);
  set.add("isspacep", decode_isspacep);
  set.add("mapa", decode_mapa);
  set.add("getctarank", decode_getctarank);
}

}  // namespace ptx
