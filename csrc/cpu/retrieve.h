// The keys of a cache that matter to a query.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

// Memory of the operation, and scratch memory that a thread needs.
void retrieve_bytes(const na_retrieve& retrieve, int64_t* workspace, size_t* scratch);

std::unique_ptr<Job> retrieve_job(const na_retrieve& retrieve, Isa isa);

}  // namespace na::cpu
