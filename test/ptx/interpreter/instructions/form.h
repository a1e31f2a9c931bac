// Reading the form of an instruction in a decoder: modifiers in the order of the grammar, operands by their kinds.
// What does not fit is unsupported().
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "../instruction_set.h"

namespace ptx {

// Walks over the modifiers of an instruction, from left to right.
class Modifiers {
 public:
  explicit Modifiers(const Instruction& instruction) : instruction_(instruction) {}

  bool accept(std::string_view modifier) {
    if (at_ == instruction_.modifiers.size() || instruction_.modifiers[at_] != modifier) return false;
    at_++;
    return true;
  }
  void expect(std::string_view modifier) {
    if (!accept(modifier)) unsupported(instruction_, "expected ." + std::string(modifier) + here());
  }
  // The position in `choices` of the next modifier, which must be one of them.
  int choose(std::initializer_list<std::string_view> choices) {
    int position = 0;
    for (const auto& choice : choices) {
      if (accept(choice)) return position;
      position++;
    }
    unsupported(instruction_, "unexpected modifier" + here());
  }
  std::string_view next() {
    if (at_ == instruction_.modifiers.size()) unsupported(instruction_, "a modifier is missing" + here());
    return instruction_.modifiers[at_++];
  }
  void end() const {
    if (at_ != instruction_.modifiers.size()) unsupported(instruction_, "unexpected modifier" + here());
  }

 private:
  std::string here() const {
    if (at_ == instruction_.modifiers.size()) return " at the end";
    return " at ." + std::string(instruction_.modifiers[at_]);
  }

  const Instruction& instruction_;
  size_t at_ = 0;
};

inline bool is_source(const Operand& operand) {
  return operand.kind == Operand::Kind::kRegister || (operand.kind == Operand::Kind::kConstant && operand.constant);
}
inline bool is_destination(const Operand& operand) {
  return operand.kind == Operand::Kind::kRegister || operand.kind == Operand::Kind::kSink;
}
inline bool is_registers(const Operand& operand, size_t count) {
  if (operand.kind != Operand::Kind::kVector || operand.elements.size() != count) return false;
  for (const Operand& element : operand.elements) {
    if (element.kind != Operand::Kind::kRegister) return false;
  }
  return true;
}
// As is_registers, where constants are allowed too.
inline bool is_sources(const Operand& operand, size_t count) {
  if (operand.kind != Operand::Kind::kVector || operand.elements.size() != count) return false;
  for (const Operand& element : operand.elements) {
    if (!is_source(element)) return false;
  }
  return true;
}

// Refuses the instruction unless `fits`; and a second destination (d|p), which most instructions do not have.
inline void require(const Instruction& instruction, bool fits, const char* what) {
  if (!fits) unsupported(instruction, what);
}
inline void require_no_pair(const Instruction& instruction) {
  for (const Operand& operand : instruction.operands) {
    require(instruction, operand.pair < 0, "a second destination");
  }
}

}  // namespace ptx
