// What instructions share that lanes of a warp execute together.
#pragma once

#include <array>
#include <string>

#include "../machine.h"

namespace ptx {

// Sets of lanes that execute a collective instruction together, each with the same membermask.
struct Assembly {
  std::array<uint32_t, kLanes> sets;
  int count = 0;
};

// Finds who executes `by` with whom, given each lane's membermask. False: some members are still elsewhere, so that the
// handler has to wait. Members that have exited are not waited for. Lanes with which the instruction has no defined
// meaning are a fault: not in their own membermask, a false guard, or other membermasks.
inline bool assemble(Warp& warp, const Instruction& by, uint32_t lanes, const Row& membermask, Assembly& assembly) {
  bool complete = true;
  for (uint32_t rest = lanes; rest != 0;) {
    const int first = __builtin_ctz(rest);
    const auto mask = static_cast<uint32_t>(membermask[first]);
    uint32_t same = 0;
    for_lanes(rest, [&](int lane) {
      if (static_cast<uint32_t>(membermask[lane]) == mask) same |= 1u << lane;
    });
    rest &= ~same;
    if ((same & ~mask) != 0) {
      warp.fault(by, __builtin_ctz(same & ~mask), "the lane is not in its own membermask " + std::to_string(mask));
    }
    const uint32_t here = mask & warp.live() & warp.current().lanes;
    if ((here & ~lanes) != 0) {
      warp.fault(by, __builtin_ctz(here & ~lanes), "the lane is in the membermask, but its guard is false");
    }
    if ((here & ~same) != 0) {
      warp.fault(by, __builtin_ctz(here & ~same), "lanes of one membermask execute with different membermasks");
    }
    complete = complete && warp.gathered(mask);
    assembly.sets[assembly.count++] = same;
  }
  return complete;
}

// For instructions that are .aligned: all 32 lanes execute them. False: some are still elsewhere.
inline bool assemble_warp(Warp& warp, const Instruction& by, uint32_t lanes) {
  if (lanes == ~0u) return true;
  if (warp.live() != ~0u) {
    warp.fault(by, __builtin_ctz(~warp.live()), "all 32 lanes must execute it, and this one has exited or never began");
  }
  const uint32_t guarded = warp.current().lanes & ~lanes;
  if (guarded != 0) warp.fault(by, __builtin_ctz(guarded), "all 32 lanes must execute it, and the guard is false");
  return false;
}

}  // namespace ptx
