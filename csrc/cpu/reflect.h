// Mirrors of the keys of a cache.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> reflect_job(const na_reflect& reflect);

}  // namespace na::cpu
