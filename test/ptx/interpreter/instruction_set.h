// Which code executes which instruction. A family is one file in instructions/ with one function, declared below, that
// adds its opcodes; a new instruction is one more entry there.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "ir.h"

namespace ptx {

// An instruction that nobody knows, or a form of it: a loud failure that names the line.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void unsupported(const Instruction& instruction, const std::string& why);

// Looks at opcode, modifiers and operands. False when the form belongs to another family (add.f32 in integer.cc); else
// it fills `execute` and `detail`, or calls unsupported(). A decoder must account for every modifier: one that it does
// not know is unsupported, never ignored.
using Decode = bool (*)(Instruction&);

class InstructionSet {
 public:
  void add(std::string opcode, Decode decoder);  // opcode: up to the first dot; several families may share one
  void decode(Instruction& instruction) const;

 private:
  std::map<std::string, std::vector<Decode>, std::less<>> decoders_;
};

const InstructionSet& instruction_set();

void add_integer(
    InstructionSet&);  // add sub mul mad mul24 div rem abs neg min max sad popc clz bfind brev bfe bfi dp4a ...
void add_logic(InstructionSet&);    // and or xor not cnot lop3 shl shr shf prmt
void add_compare(InstructionSet&);  // setp set selp slct
void add_float(
    InstructionSet&);  // f32, f64: add sub mul fma div rcp sqrt rsqrt ex2 lg2 sin cos tanh ... dispatch by type
void add_half(InstructionSet&);         // f16, f16x2, bf16, bf16x2
void add_convert(InstructionSet&);      // cvt cvta
void add_move(InstructionSet&);         // mov, mapa, isspacep
void add_memory(InstructionSet&);       // ld ldu st prefetch discard, and .param
void add_atomic(InstructionSet&);       // atom red
void add_control(InstructionSet&);      // bra call ret exit trap nop brkpt
void add_warp(InstructionSet&);         // shfl vote match redux elect activemask bar.warp
void add_barrier(InstructionSet&);      // bar barrier membar fence setmaxnreg griddepcontrol nanosleep
void add_copy_async(InstructionSet&);   // cp.async and its groups
void add_matrix_move(InstructionSet&);  // ldmatrix stmatrix movmatrix
void add_mma(InstructionSet&);          // mma.sync
void add_wgmma(InstructionSet&);        // wgmma.*
void add_mbarrier(InstructionSet&);     // mbarrier.*
void add_copy_bulk(InstructionSet&);  // cp.async.bulk, cp.reduce.async.bulk, .tensor, their groups, prefetch.tensormap

}  // namespace ptx
