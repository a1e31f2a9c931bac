// Operations on mbarrier objects, for the instructions that signal them: mbarrier.*, cp.async.mbarrier.arrive, and bulk
// copies. `offset` is an address of the shared space (a generic one less kSharedWindow). Each checks that a valid
// object lies there and that its counts stay in range, completes the phase when nothing is pending any more, and gives
// the state before the operation.
#pragma once

#include <cstdint>

#include "../machine.h"

namespace ptx {

uint64_t mbarrier_arrive(Warp& warp, const Instruction& by, int lane, uint64_t offset, uint32_t count);

// Makes `bytes` more (fewer) transaction bytes pending in the present phase.
uint64_t mbarrier_expect_tx(Warp& warp, const Instruction& by, int lane, uint64_t offset, uint32_t bytes);
uint64_t mbarrier_complete_tx(Warp& warp, const Instruction& by, int lane, uint64_t offset, uint32_t bytes);

// One more arrival pending in the present phase: what cp.async.mbarrier.arrive without .noinc does before it arrives.
void mbarrier_add_pending(Warp& warp, const Instruction& by, int lane, uint64_t offset);

}  // namespace ptx
