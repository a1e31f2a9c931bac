// Mean keys and values of what the rows of a mirror stand for.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

// Scratch memory that a thread needs.
size_t average_scratch_bytes(const na_average& average);

std::unique_ptr<Job> average_job(const na_average& average);

}  // namespace na::cpu
