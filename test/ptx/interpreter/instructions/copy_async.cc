// cp.async: copies of 4, 8 or 16 bytes from global to shared memory that a thread starts and later waits for, in
// groups or through an mbarrier. They are not bulk copies: they write shared memory through the generic proxy.
#include <string>

#include "../instruction_set.h"
#include "../machine.h"
#include "form.h"
#include "mbarrier.h"

namespace ptx {
namespace {

// --- the copy

enum CopyDetail { kBytes };
constexpr size_t kLimit = 3;  // the operand src-size or ignore-src

struct Copy {
  uint64_t destination, source;
  uint32_t bytes, taken;  // what follows the first `taken` bytes is filled with zeros
};

// Addresses are checked when the copy runs, which in every schedule is at the latest when its thread waits or ends.
void run_copy(Warp& warp, const Instruction& instruction, int lane, const Copy& copy) {
  uint8_t* to =
      warp.memory(instruction, lane, Space::kShared, copy.destination, copy.bytes, copy.bytes, Access::kWrite);
  if (copy.source % copy.bytes != 0) warp.fault(instruction, lane, "the source is not aligned to the size of the copy");
  if (copy.taken > 0) {
    std::memcpy(to, warp.memory(instruction, lane, Space::kGlobal, copy.source, copy.taken, 1, Access::kRead),
                copy.taken);
  }
  std::memset(to + copy.taken, 0, copy.bytes - copy.taken);
}

// Without a limit everything is taken; ignore-src takes nothing; src-size says how much.
enum class Limit { kNone, kIgnore, kSize };

template <Limit limit>
Outcome copy_async(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  const auto& operands = instruction.operands;
  const auto bytes = static_cast<uint32_t>(instruction.detail[kBytes]);
  const uint32_t ignored = limit == Limit::kIgnore ? warp.holds(operands[kLimit]) : 0;
  for_lanes(lanes, [&](int lane) {
    Copy copy = {warp.address(operands[0], lane), warp.address(operands[1], lane), bytes, bytes};
    if (limit == Limit::kIgnore && (ignored >> lane & 1) != 0) copy.taken = 0;
    if (limit == Limit::kSize) {
      copy.taken = static_cast<uint32_t>(warp.source(operands[kLimit])[lane]);
      if (copy.taken > bytes) {
        warp.fault(instruction, lane, "src-size " + std::to_string(copy.taken) + " exceeds the size of the copy");
      }
    }
    const auto work = [&warp, &instruction, lane, copy] { run_copy(warp, instruction, lane, copy); };
    warp.copies(lane).add(warp.cta().defer(instruction, work));
  });
  return Outcome::kDone;
}

// cp.async.{ca,cg}.shared{::cta}.global{.L2::cache_hint}{.L2::<n>B} [dst], [src], size{, limit}{, cache-policy}
void decode_copy(Instruction& instruction, Modifiers& modifiers) {
  const bool l2_only = modifiers.choose({"ca", "cg"}) == 1;
  modifiers.choose({"shared", "shared::cta"});
  modifiers.expect("global");
  const bool policy = modifiers.accept("L2::cache_hint");
  if (!modifiers.accept("L2::64B") && !modifiers.accept("L2::128B")) modifiers.accept("L2::256B");
  modifiers.end();
  require_no_pair(instruction);

  const auto& operands = instruction.operands;
  const size_t count = operands.size() - (policy ? 1 : 0);
  require(instruction,
          (count == kLimit || count == kLimit + 1) && operands[0].kind == Operand::Kind::kAddress &&
              operands[1].kind == Operand::Kind::kAddress && operands[2].kind == Operand::Kind::kConstant &&
              operands[2].constant,
          "the operands are not [dst], [src], size, and what the modifiers allow");
  if (policy) require(instruction, is_source(operands.back()), "a cache policy that is not a register");
  const uint64_t bytes = (*operands[2].constant)[0];
  require(instruction, bytes == 16 || (!l2_only && (bytes == 4 || bytes == 8)), "a copy of this size");
  instruction.detail[kBytes] = bytes;

  if (count == kLimit) {
    instruction.execute = copy_async<Limit::kNone>;
  } else if (operands[kLimit].kind == Operand::Kind::kPredicate) {
    instruction.execute = copy_async<Limit::kIgnore>;
  } else {
    require(instruction, is_source(operands[kLimit]), "a src-size that is neither a register nor a number");
    instruction.execute = copy_async<Limit::kSize>;
  }
}

// --- groups

Outcome commit_group(Warp& warp, const Instruction&, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) { warp.copies(lane).commit(); });
  return Outcome::kDone;
}

Outcome wait_group(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) { warp.copies(lane).wait(instruction.detail[0]); });
  return Outcome::kDone;
}

Outcome wait_all(Warp& warp, const Instruction&, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) { warp.copies(lane).finish(); });
  return Outcome::kDone;
}

void decode_wait_group(Instruction& instruction) {
  const auto& operands = instruction.operands;
  require(instruction, operands.size() == 1 && operands[0].kind == Operand::Kind::kConstant && operands[0].constant,
          "the operand is not a number");
  instruction.detail[0] = (*operands[0].constant)[0];
  instruction.execute = wait_group;
}

// --- arrival at an mbarrier when the copies so far are done

enum ArriveDetail { kNoIncrement, kSharedSpace };

uint64_t shared_offset(Warp& warp, const Instruction& instruction, int lane) {
  const uint64_t address = warp.address(instruction.operands[0], lane);
  if (instruction.detail[kSharedSpace] != 0) return address;
  if ((address & kWindowMask) != kSharedWindow) warp.fault(instruction, lane, "the mbarrier is not in shared memory");
  return address - kSharedWindow;
}

Outcome arrive(Warp& warp, const Instruction& instruction, uint32_t lanes) {
  for_lanes(lanes, [&](int lane) {
    const uint64_t offset = shared_offset(warp, instruction, lane);
    if (instruction.detail[kNoIncrement] == 0) mbarrier_add_pending(warp, instruction, lane, offset);
    warp.cta().start(instruction, [&warp, &instruction, lane, offset, copies = warp.copies(lane).pending()] {
      for (const AsyncPtr& copy : copies) complete(*copy);
      mbarrier_arrive(warp, instruction, lane, offset, 1);
    });
  });
  return Outcome::kDone;
}

// cp.async.mbarrier.arrive{.noinc}{.shared{::cta}}.b64 [mbarrier]
void decode_arrive(Instruction& instruction, Modifiers& modifiers) {
  modifiers.expect("arrive");
  instruction.detail[kNoIncrement] = modifiers.accept("noinc");
  instruction.detail[kSharedSpace] = modifiers.accept("shared") || modifiers.accept("shared::cta");
  modifiers.expect("b64");
  modifiers.end();
  require(instruction, instruction.operands.size() == 1 && instruction.operands[0].kind == Operand::Kind::kAddress,
          "the operand is not an address");
  instruction.execute = arrive;
}

// cp.async.bulk belongs to copy_bulk.cc.
bool decode_cp(Instruction& instruction) {
  Modifiers modifiers(instruction);
  if (!modifiers.accept("async") || modifiers.accept("bulk")) return false;
  if (modifiers.accept("commit_group") || modifiers.accept("wait_all")) {
    modifiers.end();
    require(instruction, instruction.operands.empty(), "an operand");
    instruction.execute = instruction.has("wait_all") ? wait_all : commit_group;
  } else if (modifiers.accept("wait_group")) {
    modifiers.end();
    decode_wait_group(instruction);
  } else if (modifiers.accept("mbarrier")) {
    decode_arrive(instruction, modifiers);
  } else {
    decode_copy(instruction, modifiers);
  }
  return true;
}

}  // namespace

void add_copy_async(InstructionSet& set) { set.add("cp", decode_cp); }

}  // namespace ptx
