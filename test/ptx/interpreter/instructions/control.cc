// Control flow: bra, call, ret, exit, and what stops a kernel.
#include "../instruction_set.h"
#include "../machine.h"
#include "form.h"

namespace ptx {
namespace {

Outcome bra(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  warp.jump(lanes, instruction.operands[0].index);
  return Outcome::kJumped;
}

Outcome ret(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  warp.ret(instruction, lanes);
  return Outcome::kJumped;
}

Outcome exit(Warp& warp, const Instruction&, uint32_t lanes) {
  warp.exit(lanes);
  return Outcome::kJumped;
}

Outcome nop(Warp&, const Instruction&, uint32_t) { return Outcome::kDone; }

Outcome trap(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  warp.fault(instruction, __builtin_ctz(lanes), "the kernel stops itself");
}

// The bytes of `from` in each lane become those of `to`: parameters of a call, or its results.
void copy_parameters(Warp& warp, const Instruction& by, uint32_t lanes, const Operand& from, uint64_t to,
                     uint64_t bytes, bool results) {
  for_lanes(lanes, [&](int lane) {
    const uint64_t outside = (*from.constant)[lane], source = results ? to : outside, target = results ? outside : to;
    const uint8_t* data = warp.memory(by, lane, Space::kParam, source, bytes, 1, Access::kRead);
    std::memcpy(warp.memory(by, lane, Space::kParam, target, bytes, 1, Access::kWrite), data, bytes);
  });
}

// call (results), function, (parameters); the lists may be missing.
struct Call {
  const Operand* results = nullptr;
  const Operand* parameters = nullptr;
  int function = -1;
};

Call call_of(const Instruction& instruction) {
  Call call;
  for (const Operand& operand : instruction.operands) {
    if (operand.kind == Operand::Kind::kFunction) {
      call.function = operand.index;
    } else if (call.function < 0) {
      call.results = &operand;
    } else {
      call.parameters = &operand;
    }
  }
  return call;
}

// Where calls return to is known to the warp; where results go, to the instruction before that place.
Outcome call(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Module& module = *warp.cta().launch().module;
  const Call call = call_of(instruction);
  const Function& function = module.functions[static_cast<size_t>(call.function)];
  const auto count = [](const Operand* list) { return list ? list->elements.size() : 0; };
  if (count(call.parameters) != function.parameters.size() || count(call.results) != function.results.size()) {
    warp.fault(instruction, -1, "function " + function.name + " has another number of parameters or results");
  }
  for (size_t i = 0; i < function.parameters.size(); i++) {
    const Variable& parameter = function.parameters[i];
    copy_parameters(warp, instruction, lanes, call.parameters->elements[i], parameter.address, parameter.size, false);
  }
  warp.call(instruction, lanes, function.first);
  return Outcome::kJumped;
}

// Stands behind each call: takes the results over, for the lanes that have come back.
Outcome call_results(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const Module& module = *warp.cta().launch().module;
  const Call call = call_of(instruction);
  const Function& function = module.functions[static_cast<size_t>(call.function)];
  for (size_t i = 0; i < function.results.size(); i++) {
    const Variable& result = function.results[i];
    copy_parameters(warp, instruction, lanes, call.results->elements[i], result.address, result.size, true);
  }
  return Outcome::kDone;
}

bool decode_bra(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.accept("uni");
  modifiers.end();
  require(instruction, instruction.operands.size() == 1 && instruction.operands[0].kind == Operand::Kind::kLabel,
          "a branch to something that is no label");
  instruction.execute = bra;
  return true;
}

bool decode_call(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.accept("uni");
  const bool results = modifiers.accept("results");
  modifiers.end();
  const Call target = call_of(instruction);
  require(instruction, target.function >= 0, "an indirect call");
  for (const Operand* list : {target.parameters, target.results}) {
    if (!list) continue;
    for (const Operand& element : list->elements) {
      require(instruction, element.kind == Operand::Kind::kConstant && element.constant,
              "a parameter or result of a call that is no .param variable");
    }
  }
  instruction.execute = results ? call_results : call;
  return true;
}

template <Execute kExecute>
bool decode_plain(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.accept("uni");
  modifiers.end();
  require(instruction, instruction.operands.empty(), "operands");
  instruction.execute = kExecute;
  return true;
}

bool decode_brx(Instruction& instruction) { unsupported(instruction, "an indirect branch"); }

}  // namespace

void add_control(InstructionSet& set) {
  set.add("bra", decode_bra);
  set.add("brx", decode_brx);
  set.add("call", decode_call);
  set.add("ret", decode_plain<ret>);
  set.add("exit", decode_plain<exit>);
  set.add("nop", decode_plain<nop>);
  set.add("trap", decode_plain<trap>);
  set.add("brkpt", decode_plain<trap>);
}

}  // namespace ptx
