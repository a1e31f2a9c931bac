// A PTX module after parsing: what the text says, with names resolved to numbers. Nothing here runs.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

constexpr int kLanes = 32;

// A row is one value for each lane of a warp, in the low bits of 64.
using Row = std::array<uint64_t, kLanes>;

// Special registers lie in the first rows of the register file, so that they are read like any other register.
enum Special {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneid,
  kWarpid,
  kNwarpid,
  kSmid,
  kNsmid,
  kGridid,
  kLanemaskEq,
  kLanemaskLe,
  kLanemaskLt,
  kLanemaskGe,
  kLanemaskGt,
  kClock,
  kClockHi,
  kClock64,
  kGlobaltimer,
  kGlobaltimerLo,
  kGlobaltimerHi,
  kClusteridX,
  kClusteridY,
  kClusteridZ,
  kNclusteridX,
  kNclusteridY,
  kNclusteridZ,
  kClusterCtaidX,
  kClusterCtaidY,
  kClusterCtaidZ,
  kClusterNctaidX,
  kClusterNctaidY,
  kClusterNctaidZ,
  kClusterCtarank,
  kClusterNctarank,
  kIsExplicitCluster,
  kDynamicSmemSize,
  kTotalSmemSize,
  kSpecials
};

struct Operand {
  enum class Kind {
    kRegister,   // index: row of the register file, special registers included
    kPredicate,  // index: mask in the predicate file; negated for !%p
    kConstant,   // constant: the immediate in every lane, as the bits that the instruction's type gives it
    kAddress,    // [base + offset], or [base, {coordinates}] of a tensor copy
    kVector,     // {a, b, ...} in elements
    kLabel,      // index: instruction
    kFunction,   // index: function in the module
    kSink        // _
  };
  Kind kind = Kind::kSink;
  bool negated = false;
  int index = -1;
  int pair = -1;  // the second destination of d|p: a predicate, whatever the first is; -1 when there is none or it is _
  // kConstant, and the base of a kAddress that names a variable instead of a register (then index is -1).
  std::shared_ptr<const Row> constant;
  int64_t offset = 0;
  std::vector<Operand> elements;  // of a vector; the coordinates of a tensor address
};

class Warp;
struct Instruction;

// What became of an instruction, for the lanes that ran it.
enum class Outcome {
  kDone,     // go on with the next
  kJumped,   // the handler has set where the lanes go on
  kWaiting,  // nothing was done: try again when others have made progress
  kYield     // done, and let others run first (a wait that found the phase not complete)
};

// `lanes`: those to execute, guard already applied, never empty.
using Execute = Outcome (*)(Warp& warp, const Instruction& instruction, uint32_t lanes);

struct Instruction {
  std::string_view text;                    // the statement, for messages; lives as long as the module
  int line = 0;                             // in the PTX file, from 1
  std::string_view opcode;                  // "ld"
  std::vector<std::string_view> modifiers;  // "shared::cta", "v4", "b32"
  int guard = -1;                           // predicate, or -1
  bool guard_negated = false;
  std::vector<Operand> operands;  // destinations first, as written

  // Set by the decoder of the instruction family (instruction_set.h).
  Execute execute = nullptr;
  uint64_t detail[6] = {};  // whatever the family computes once: sizes, flags, small tables

  bool has(std::string_view modifier) const {
    for (const auto& m : modifiers) {
      if (m == modifier) return true;
    }
    return false;
  }
  // The last modifier, which is the type in most instructions; empty when there is none.
  std::string_view type() const { return modifiers.empty() ? std::string_view() : modifiers.back(); }
};

// A variable with a place: module scope (global, const, shared), function scope (shared, local), or a parameter.
struct Variable {
  std::string name;
  uint64_t size = 0, align = 1;
  uint64_t address = 0;  // offset in its space
};

struct Function {
  std::string name;
  bool is_entry = false;
  int first = 0, end = 0;  // instructions [first, end)
  std::vector<Variable> parameters, results;
  uint64_t parameter_bytes = 0;  // of an entry: what a launch must give
  uint64_t static_shared = 0;    // bytes of shared memory that its variables take, those of functions it calls included
  uint64_t local_bytes = 0;      // per thread, all functions of the module together
  int max_threads = 0;           // .maxntid, 0 when not given
  // Rows of the register file and predicates that a launch needs, those of all functions that are no entries included.
  int registers = 0, predicates = 0;
};

// Local memory and call parameters of all functions lie side by side, and registers and predicates of those that can be
// called, so that a call needs no frame. Recursion is refused: nvcc's attention kernels have none. Registers of entries
// lie in the same rows, since only one of them runs: all those of a module would be up to fifteen megabytes a warp.
struct Module {
  std::string source;
  int target = 0;  // 80, 90
  std::vector<Instruction> code;
  std::vector<Function> functions;
  std::map<std::string, int, std::less<>> function_by_name;
  std::vector<Variable> globals;  // .global and .const; address is a host address in `storage`
  std::vector<std::unique_ptr<uint8_t[]>> storage;
  uint64_t local_bytes = 0;  // per thread
  uint64_t call_bytes = 0;   // per thread: .param variables inside functions
};

}  // namespace ptx
