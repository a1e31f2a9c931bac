// attention() on the CPU: cuts it into tiles and runs them on the executor of an instruction set.
#pragma once

#include <cstddef>
#include <memory>

#include "core/backend.h"
#include "core/status.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

// Refuses what the biases of a call ask for and this instruction set cannot do. `scratch` is the memory that a thread
// needs for one tile.
Status check_attention(const na_attention& attention, Isa isa, size_t* scratch);

// The arguments are already checked, except for the values in cu_q and cu_k, and outlive the job.
std::unique_ptr<Job> attention_job(const na_attention& attention, Isa isa, int threads);

}  // namespace na::cpu
