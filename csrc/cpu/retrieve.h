// The keys of a cache that matter to a query.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> retrieve_job(const na_retrieve& retrieve, Isa isa);

}  // namespace na::cpu
