// Mirrors of the keys of a cache.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

// Scratch memory that a thread needs.
size_t reflect_scratch_bytes(const na_reflect& reflect);

std::unique_ptr<Job> reflect_job(const na_reflect& reflect, Isa isa);

}  // namespace na::cpu
