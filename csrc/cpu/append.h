// New tokens into the pages of a KvCache.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> append_job(const na_append& append);

}  // namespace na::cpu
