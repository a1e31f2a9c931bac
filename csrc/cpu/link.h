// Graphs over the keys of a cache.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> link_job(const na_link& link, Isa isa);

// What the job needs for itself, and of each thread.
void link_bytes(const na_link& link, int64_t* workspace, size_t* scratch);

}  // namespace na::cpu
