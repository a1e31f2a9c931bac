// Rotary position embedding.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> rotate_job(const na_rotate& rotate);

}  // namespace na::cpu
