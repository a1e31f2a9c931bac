// Barriers among the threads of a block (bar, barrier), fences, and what changes nothing here (setmaxnreg,
// griddepcontrol).
//
// Lanes arrive, and wait until as many threads as the barrier expects have arrived; then its phase ends, all who wait
// may leave, and the next phase begins with whoever arrives next, also before all have left.
#include <algorithm>
#include <string>

#include "../instruction_set.h"
#include "../machine.h"
#include "form.h"

namespace ptx {
namespace {

constexpr uint32_t kBarriers = 16;

enum Detail { kAligned, kThreads, kResult, kReduction, kPredicate };
constexpr uint64_t kNone = ~uint64_t{0};  // of details that are the place of an operand
enum Reduction : uint64_t { kNoReduction, kPopc, kAnd, kOr };

// Ends the phase when all have arrived. A warp of which all live lanes have arrived counts whole.
void settle(Warp& warp, const Instruction& by, NamedBarrier& barrier) {
  if (!barrier.open) return;
  Cta& cta = warp.cta();
  const auto warps = static_cast<int>(cta.warps().size());
  uint32_t arrived = 0, expected = barrier.threads;
  for (int w = 0; w < warps; w++) {
    const uint32_t live = cta.warp(w).live(), here = barrier.arrived[w];
    if (here != 0) arrived += (live & ~here) == 0 ? kLanes : static_cast<uint32_t>(__builtin_popcount(here));
    if (barrier.threads == 0 && (live | here) != 0) expected += kLanes;
  }
  if (arrived > expected) {
    warp.fault(by, -1, std::to_string(arrived) + " threads arrive at a barrier of " + std::to_string(expected));
  }
  if (arrived < expected) return;
  for (int w = 0; w < warps; w++) {
    if (barrier.waiting[w] != 0) {
      barrier.result[w] = barrier.count;
      barrier.result_total[w] = barrier.total;
    }
    barrier.released[w] |= barrier.waiting[w];
    barrier.arrived[w] = barrier.waiting[w] = 0;
  }
  barrier.open = false;
  barrier.count = barrier.total = 0;
}

void arrive(Warp& warp, const Instruction& by, NamedBarrier& barrier, uint32_t lanes, uint32_t threads) {
  if (threads % kLanes != 0) {
    warp.fault(by, -1, std::to_string(threads) + " threads at a barrier, which is no multiple of 32");
  }
  // Whoever gives no number expects all, as does who gives that of all.
  const uint32_t all = (warp.cta().threads() + kLanes - 1) / kLanes * kLanes;
  const auto expects = [all](uint32_t given) { return given == 0 ? all : given; };
  if (barrier.open && expects(barrier.threads) != expects(threads)) {
    warp.fault(by, -1,
               "expects " + std::to_string(threads) + " threads (0: all) at a barrier where others expect " +
                   std::to_string(barrier.threads));
  }
  const uint32_t again = barrier.arrived[warp.index()] & lanes;
  if (again != 0) warp.fault(by, __builtin_ctz(again), "arrives twice in one phase of a barrier");
  barrier.threads = barrier.open ? std::max(barrier.threads, threads) : threads;
  barrier.open = true;
  barrier.arrived[warp.index()] |= lanes;
  warp.cta().progress();
}

NamedBarrier& barrier_of(Warp& warp, const Instruction& instruction, uint32_t lanes, size_t operand) {
  const auto id = static_cast<uint32_t>(warp.source(instruction.operands[operand])[__builtin_ctz(lanes)]);
  if (id >= kBarriers) warp.fault(instruction, -1, "there is no barrier " + std::to_string(id) + ", only 0 to 15");
  return warp.cta().barrier(static_cast<int>(id));
}

uint32_t threads_of(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const uint64_t operand = instruction.detail[kThreads];
  if (operand == kNone) return 0;
  return static_cast<uint32_t>(warp.source(instruction.operands[operand])[__builtin_ctz(lanes)]);
}

// All live lanes of a warp execute an .aligned barrier together.
bool together(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  return instruction.detail[kAligned] == 0 || (warp.live() & ~lanes) == 0;
}

void write_result(Warp& warp, const Instruction& instruction, const NamedBarrier& barrier, uint32_t lanes) {
  const uint64_t reduction = instruction.detail[kReduction];
  if (reduction == kNoReduction) return;
  const Operand& to = instruction.operands[0];
  const uint32_t result = barrier.result[warp.index()], total = barrier.result_total[warp.index()];
  if (reduction == kPopc) {
    for_lanes(lanes, [&](int lane) { warp.destination(to)[lane] = result; });
    return;
  }
  const bool holds = reduction == kAnd ? result == total : result > 0;
  uint32_t& predicate = warp.predicate(to.index);
  predicate = (predicate & ~lanes) | (holds ? lanes : 0);
}

Outcome sync(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  if (!together(warp, instruction, lanes)) return Outcome::kWaiting;
  NamedBarrier& barrier = barrier_of(warp, instruction, lanes, instruction.detail[kReduction] == kNoReduction ? 0 : 1);
  const int w = warp.index();
  const uint32_t fresh = lanes & ~barrier.waiting[w] & ~barrier.released[w];
  if (fresh != 0 && (barrier.released[w] & lanes) == 0) {
    arrive(warp, instruction, barrier, fresh, threads_of(warp, instruction, lanes));
    barrier.waiting[w] |= fresh;
    if (instruction.detail[kReduction] != kNoReduction) {
      const uint32_t holds = warp.holds(instruction.operands[instruction.detail[kPredicate]]) & fresh;
      barrier.count += static_cast<uint32_t>(__builtin_popcount(holds));
      barrier.total += static_cast<uint32_t>(__builtin_popcount(fresh));
    }
  }
  settle(warp, instruction, barrier);  // also when others have exited meanwhile
  const uint32_t leaving = barrier.released[w] & lanes;
  if (leaving == 0) return Outcome::kWaiting;
  if (leaving != lanes) warp.hold(lanes & ~leaving);  // those that came for the next phase
  barrier.released[w] &= ~leaving;
  write_result(warp, instruction, barrier, leaving);
  return Outcome::kDone;
}

Outcome arrive_only(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  if (!together(warp, instruction, lanes)) return Outcome::kWaiting;
  NamedBarrier& barrier = barrier_of(warp, instruction, lanes, 0);
  arrive(warp, instruction, barrier, lanes, threads_of(warp, instruction, lanes));
  settle(warp, instruction, barrier);
  return Outcome::kDone;
}

Outcome nothing(Warp&, const Instruction&, uint32_t) { return Outcome::kDone; }

Outcome fence_proxy(Warp& warp, const Instruction&, uint32_t) {
  warp.cta().fence_proxy(warp);
  return Outcome::kDone;
}

// A cluster is one block here. Its arrive and wait would be a barrier of the block in two parts; no kernel has needed
// it.
[[noreturn]] void refuse_cluster(const Instruction& instruction) {
  unsupported(instruction, "barriers of clusters, which have one block here");
}

// bar{.cta}.sync a{, b}; .arrive a, b; .red.popc.u32 d, a{, b}, {!}c; .red.{and,or}.pred p, a{, b}, {!}c.
// barrier{.cta} is the same, aligned only when it says so.
bool decode_barrier(Instruction& instruction) {
  if (instruction.has("warp")) return false;
  Modifiers modifiers(instruction);
  const bool is_bar = instruction.opcode == "bar";
  if (!is_bar && modifiers.accept("cluster")) refuse_cluster(instruction);
  modifiers.accept("cta");
  const int kind = modifiers.choose({"sync", "arrive", "red"});
  uint64_t reduction = kNoReduction;
  if (kind == 2) reduction = kPopc + static_cast<uint64_t>(modifiers.choose({"popc", "and", "or"}));
  instruction.detail[kAligned] = modifiers.accept("aligned") || is_bar ? 1 : 0;
  if (kind == 2) modifiers.expect(reduction == kPopc ? "u32" : "pred");
  modifiers.end();
  require_no_pair(instruction);

  const auto& operands = instruction.operands;
  const size_t first = kind == 2 ? 1 : 0, last = operands.size() - (kind == 2 ? 1 : 0);
  require(instruction, last == first + 1 || last == first + 2, "operands of this number");
  for (size_t i = first; i < last; i++) require(instruction, is_source(operands[i]), "this operand");
  require(instruction, kind != 1 || last == first + 2, "arrival without the number of threads");
  instruction.detail[kThreads] = last == first + 2 ? first + 1 : kNone;
  instruction.detail[kReduction] = reduction;
  instruction.detail[kPredicate] = last;
  if (kind == 2) {
    const auto wanted = reduction == kPopc ? Operand::Kind::kRegister : Operand::Kind::kPredicate;
    require(instruction, operands[0].kind == wanted, "this result");
    require(instruction, operands[last].kind == Operand::Kind::kPredicate, "this predicate");
  }
  instruction.execute = kind == 1 ? arrive_only : sync;
  return true;
}

bool decode_membar(Instruction& instruction) {
  Modifiers modifiers(instruction);
  if (modifiers.accept("proxy")) {
    modifiers.expect("alias");
  } else {
    modifiers.choose({"cta", "gl", "sys"});
  }
  modifiers.end();
  instruction.execute = nothing;
  return true;
}

// Memory is sequentially consistent here; only the proxies are told apart.
bool decode_fence(Instruction& instruction) {
  Modifiers modifiers(instruction);
  instruction.execute = nothing;
  if (modifiers.accept("proxy")) {
    if (modifiers.accept("async")) {
      const bool global_only = modifiers.accept("global");
      if (!global_only && !modifiers.accept("shared::cta")) modifiers.accept("shared::cluster");
      if (!global_only) instruction.execute = fence_proxy;
    } else if (modifiers.accept("tensormap::generic")) {
      modifiers.choose({"acquire", "release"});
      modifiers.choose({"cta", "cluster", "gpu", "sys"});
    } else {
      modifiers.expect("alias");
    }
  } else if (modifiers.accept("mbarrier_init")) {
    modifiers.expect("release");
    modifiers.expect("cluster");
  } else {
    for (const auto* order : {"sc", "acq_rel", "acquire", "release"}) modifiers.accept(order);
    modifiers.choose({"cta", "cluster", "gpu", "sys"});
  }
  modifiers.end();
  return true;
}

bool decode_setmaxnreg(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.choose({"inc", "dec"});
  modifiers.expect("sync");
  modifiers.expect("aligned");
  modifiers.expect("u32");
  modifiers.end();
  const auto& operands = instruction.operands;
  require(instruction, operands.size() == 1 && operands[0].kind == Operand::Kind::kConstant, "operands of this kind");
  const uint64_t count = (*operands[0].constant)[0];
  require(instruction, count >= 24 && count <= 256 && count % 8 == 0,
          "a number of registers that is no multiple of 8 from 24 to 256");
  instruction.execute = nothing;
  return true;
}

bool decode_griddepcontrol(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.choose({"launch_dependents", "wait"});
  modifiers.end();
  instruction.execute = nothing;
  return true;
}

bool decode_nanosleep(Instruction& instruction) {
  Modifiers modifiers(instruction);
  modifiers.expect("u32");
  modifiers.end();
  instruction.execute = nothing;
  return true;
}

}  // namespace

void add_barrier(InstructionSet& set) {
  set.add("bar", decode_barrier);
  set.add("barrier", decode_barrier);
  set.add("membar", decode_membar);
  set.add("fence", decode_fence);
  set.add("setmaxnreg", decode_setmaxnreg);
  set.add("griddepcontrol", decode_griddepcontrol);
  set.add("nanosleep", decode_nanosleep);
}

}  // namespace ptx
