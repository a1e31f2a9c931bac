// What the device can do at most.
#pragma once

#include "backend.h"
#include "runtime.h"

namespace bench {

// Seconds of each copy, by the backend's clock and, where there is a runtime, by events.
Status time_copies(Backend& backend, const Runtime& runtime, int64_t bytes, int times, double* backend_seconds,
                   double* event_seconds);

// Runs the kernel of bench/cuda/peak.cu out of the file `kernels`.
Status time_products(const Runtime& runtime, const char* kernels, double* seconds, double* operations);

}  // namespace bench
