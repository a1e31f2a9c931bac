// Building and inspecting sparse plans.
#pragma once

#include <memory>

#include "core/backend.h"
#include "cpu/job.h"

namespace na::cpu {

std::unique_ptr<Job> build_job(const na_build& build);
std::unique_ptr<Job> inspect_job(const na_inspect& inspect);

}  // namespace na::cpu
