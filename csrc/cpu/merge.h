// Merges partial attention results on the CPU.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> merge_job(const na_merge& merge);

}  // namespace na::cpu
