// Selectors of sparse plans on a device.
#pragma once

#include "core/backend.h"
#include "core/status.h"

namespace na::cuda {

// Both refuse what kernels/select does not run.
Status check_pool(const na_pool& pool);
Status check_select(const na_select& select, int64_t* workspace_bytes);

}  // namespace na::cuda
