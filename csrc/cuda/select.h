// Selectors of sparse plans on a device.
#pragma once

#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// Refuses what kernels/select does not run.
Status check_select(const na_select& select, int64_t* workspace_bytes);

}  // namespace na::cuda
