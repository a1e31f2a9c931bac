// Copies between strided views, converting the element type: Tensor.to() and read().
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> copy_job(const na_copy& copy);

}  // namespace na::cpu
