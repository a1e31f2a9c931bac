#include <algorithm>

#include "diagnostics.h"
#include "machine.h"
#include "parser.h"

namespace ptx {
namespace {

constexpr uint8_t kPoison = 0xff;  // NaN in every float type

// Lines of a warp's special registers that stay the same while it runs.
void set_special(std::vector<Row>& rows, const Cta& cta, int index) {
  const Launch& launch = cta.launch();
  const auto set = [&](int special, uint64_t value) { rows[static_cast<size_t>(special)].fill(value); };
  const Function& function = launch.module->functions[static_cast<size_t>(launch.function)];
  for (int axis = 0; axis < 3; axis++) {
    set(kNtidX + axis, launch.block[axis]);
    set(kCtaidX + axis, cta.index()[axis]);
    set(kNctaidX + axis, launch.grid[axis]);
    set(kClusteridX + axis, cta.index()[axis]);
    set(kNclusteridX + axis, launch.grid[axis]);
    set(kClusterCtaidX + axis, 0);
    set(kClusterNctaidX + axis, 1);
  }
  set(kClusterCtarank, 0);
  set(kClusterNctarank, 1);
  set(kIsExplicitCluster, 0);
  set(kWarpid, static_cast<uint64_t>(index));
  set(kNwarpid, 64);
  set(kSmid, 0);
  set(kNsmid, 132);
  set(kGridid, 1);
  set(kDynamicSmemSize, launch.dynamic_shared);
  set(kTotalSmemSize, function.static_shared + launch.dynamic_shared);
  for (uint32_t lane = 0; lane < kLanes; lane++) {
    const uint32_t thread = static_cast<uint32_t>(index) * kLanes + lane, bit = uint32_t{1} << lane;
    rows[kTidX][lane] = thread % launch.block[0];
    rows[kTidY][lane] = thread / launch.block[0] % launch.block[1];
    rows[kTidZ][lane] = thread / launch.block[0] / launch.block[1];
    rows[kLaneid][lane] = lane;
    rows[kLanemaskEq][lane] = bit;
    rows[kLanemaskLt][lane] = bit - 1;
    rows[kLanemaskLe][lane] = (bit - 1) | bit;
    rows[kLanemaskGt][lane] = ~((bit - 1) | bit);
    rows[kLanemaskGe][lane] = ~(bit - 1);
  }
}

}  // namespace

Warp::Warp(Cta& cta, int index, uint32_t lanes, RegisterFile& file)
    : cta_(&cta), index_(index), live_(lanes), registers_(file.rows), predicates_(file.predicates) {
  const Module& module = *cta.launch().module;
  const Function& function = module.functions[static_cast<size_t>(cta.launch().function)];
  Row poison;
  poison.fill(~uint64_t{0});
  registers_.assign(static_cast<size_t>(function.registers), poison);
  predicates_.assign(static_cast<size_t>(function.predicates), 0xaaaaaaaa);
  local_.assign(module.local_bytes * kLanes, kPoison);
  call_.assign(module.call_bytes * kLanes, kPoison);
  set_special(registers_, cta, index);
  groups_.push_back({lanes, function.first, {}, false, -1});
  current_ = &groups_.front();
}

uint32_t Warp::holds(const Operand& operand) const {
  uint32_t lanes = 0;
  if (operand.kind == Operand::Kind::kPredicate) {
    lanes = predicates_[static_cast<size_t>(operand.index)];
  } else {
    for (int lane = 0; lane < kLanes; lane++) lanes |= static_cast<uint32_t>((*operand.constant)[lane] != 0) << lane;
  }
  return operand.negated ? ~lanes : lanes;
}

void Warp::fault(const Instruction& by, int lane, const std::string& what) const {
  throw Fault(place(by) + "  -- " + what + " (" + thread_name(*cta_, index_, lane) + ")");
}

uint8_t* Warp::memory(const Instruction& by, int lane, Space space, uint64_t address, uint64_t bytes, uint64_t align,
                      Access access) {
  if (space == Space::kGeneric) {
    const uint64_t window = address & kWindowMask;
    if (window == kSharedWindow) {
      space = Space::kShared;
      address -= kSharedWindow;
    } else if (window == kLocalWindow) {
      space = Space::kLocal;
      address -= kLocalWindow;
    } else {
      space = window == kParamWindow ? Space::kParam : Space::kGlobal;
    }
  }
  if (space == Space::kShared) {
    return cta_->shared(this, by, lane, address, bytes, align, access, Proxy::kGeneric);
  }
  if (address % align != 0) fault(by, lane, "misaligned address " + hexadecimal(address));
  const auto within = [&](std::vector<uint8_t>& memory, uint64_t offset, uint64_t size, const char* name) {
    if (offset > size || bytes > size - offset) {
      fault(by, lane,
            "address " + std::to_string(offset) + " is outside the " + std::to_string(size) + " bytes of " + name);
    }
    return memory.data();
  };
  const Module& module = *cta_->launch().module;
  const auto thread = static_cast<uint64_t>(lane);
  if (space == Space::kLocal) {
    return within(local_, address, module.local_bytes, "local memory") + thread * module.local_bytes + address;
  }
  if (space == Space::kParam) {
    const uint64_t offset = address - kParamWindow;
    if (offset >= kCallParameters) {
      const uint64_t at = offset - kCallParameters;
      return within(call_, at, module.call_bytes, "call parameters") + thread * module.call_bytes + at;
    }
    if (access != Access::kRead) fault(by, lane, "writes to a parameter of the kernel");
    return within(cta_->parameters_, offset, cta_->parameters_.size(), "the kernel's parameters") + offset;
  }
  const auto allocation = global_memory().find(address, bytes);
  if (!allocation) {
    fault(by, lane,
          "address " + hexadecimal(address) + " is out of bounds, " + global_memory().whereabouts(address, bytes));
  }
  if (access != Access::kRead) cta_->progress();
  if (access != Access::kRead && !allocation->writable) fault(by, lane, "writes to memory that is for reading only");
  return reinterpret_cast<uint8_t*>(address);
}

// --- control flow: groups of lanes. Those of the current group that are not named go on behind the instruction.

void Warp::jump(uint32_t lanes, int pc) {
  const uint32_t rest = current_->lanes & ~lanes;
  if (rest != 0) {
    groups_.push_back(*current_);
    groups_.back().lanes = rest;
    groups_.back().pc++;
  }
  current_->lanes = lanes;
  current_->pc = pc;
}

void Warp::call(const Instruction& by, uint32_t lanes, int pc) {
  constexpr size_t kDeepest = 64;
  if (current_->return_to.size() == kDeepest) fault(by, -1, "recursion is not supported");
  const int next = current_->pc + 1;
  jump(lanes, pc);
  current_->return_to.push_back(next);
}

void Warp::ret(const Instruction&, uint32_t lanes) {
  if (current_->return_to.empty()) return exit(lanes);
  jump(lanes, current_->return_to.back());
  current_->return_to.pop_back();
}

void Warp::exit(uint32_t lanes) {
  live_ &= ~lanes;
  current_->lanes &= ~lanes;
  current_->pc++;
}

void Warp::hold(uint32_t lanes) {
  groups_.push_back(*current_);
  groups_.back().lanes = lanes;
  groups_.back().waiting = true;
  current_->lanes &= ~lanes;
}

std::string Warp::waits_for() const {
  std::string report;
  for (const LaneGroup& group : groups_) {
    if (group.lanes == 0) continue;
    const int pc = group.yielded_at >= 0 ? group.yielded_at : group.pc;
    report += "\n  warp " + std::to_string(index_) + " lanes " + hexadecimal(group.lanes) + ": " +
              place(cta_->launch().module->code[static_cast<size_t>(pc)]);
  }
  return report;
}

}  // namespace ptx
