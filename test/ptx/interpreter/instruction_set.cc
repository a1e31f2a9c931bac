#include "instruction_set.h"

namespace ptx {

void unsupported(const Instruction& instruction, const std::string& why) {
  throw Unsupported("line " + std::to_string(instruction.line) + ": " + std::string(instruction.text) +
                    "  -- not supported: " + why);
}

void InstructionSet::add(std::string opcode, Decode decoder) { decoders_[std::move(opcode)].push_back(decoder); }

void InstructionSet::decode(Instruction& instruction) const {
  const auto found = decoders_.find(instruction.opcode);
  if (found == decoders_.end()) unsupported(instruction, "unknown instruction");
  for (const Decode decoder : found->second) {
    if (decoder(instruction)) return;
  }
  unsupported(instruction, "unknown form of " + std::string(instruction.opcode));
}

const InstructionSet& instruction_set() {
  static const InstructionSet all = [] {
    InstructionSet set;
    for (const auto add : {add_integer, add_logic, add_compare, add_float, add_half, add_convert, add_move, add_memory,
                           add_atomic, add_control, add_warp, add_barrier, add_copy_async, add_matrix_move, add_mma,
                           add_wgmma, add_mbarrier, add_copy_bulk}) {
      add(set);
    }
    return set;
  }();
  return all;
}

}  // namespace ptx
