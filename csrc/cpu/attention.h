// attention() on the CPU: cuts it into tiles and runs them on the executor of an instruction set.
#pragma once

#include <cstddef>
#include <memory>

#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

// Scratch memory that a thread needs for one tile.
size_t attention_scratch_bytes(const na_attention& attention, Isa isa);

// The arguments are already checked, except for the values in cu_q and cu_k, and outlive the job.
std::unique_ptr<Job> attention_job(const na_attention& attention, Isa isa, int threads);

}  // namespace na::cpu
