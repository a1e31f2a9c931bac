// Copies rows of pages, as they are: KvCache.save() and load().
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> copy_rows_job(const na_copy_rows& copy);

}  // namespace na::cpu
