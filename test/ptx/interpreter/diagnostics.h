// What a report says: where in the PTX, and which thread.
#pragma once

#include <string>

#include "machine.h"

namespace ptx {

// "line 12: st.shared.u32 [%r1], %r2;"
std::string place(const Instruction& instruction);

// "block 0,0,0 warp 3 lane 5"; without the lane when it is -1.
std::string thread_name(const Cta& cta, int warp, int lane);

std::string hexadecimal(uint64_t value);

// A line for each group of lanes that is not at its end: where it is.
std::string places(Cta& cta);

// The same, when none of them can go on.
std::string deadlock_report(Cta& cta);

}  // namespace ptx
