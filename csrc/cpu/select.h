// Selectors: which blocks of keys matter to the queries of each row of a sparse plan.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/isa.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> select_job(const na_select& select, Isa isa);

}  // namespace na::cpu
