// Opens the CUDA backend library that lies beside the addon, if this machine can use it.
#pragma once

#include <string>
#include <vector>

#include "core/backend.h"

namespace na {

struct LoadedBackend {
  const na_backend* table = nullptr;
  std::string reason;              // a reason code of devices() when table is null
  std::string message;             // a sentence
  std::vector<std::string> steps;  // what was looked at, in that order, and what was found
};

// Looks at NODE_ATTENTION_DEVICE, the driver, its devices, then the library. What it opens is never closed:
// backend threads may still be running.
LoadedBackend load_cuda_backend();

}  // namespace na
