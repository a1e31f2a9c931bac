// The CPU backend: fills the table of core/backend.h.
#pragma once

#include "core/status.h"

namespace na::cpu {

// The table, or why there is none: NODE_ATTENTION_CPU or NODE_ATTENTION_THREADS asks for what cannot be.
Status backend(const na_backend** table);

// The reason code that devices() reports when backend() refuses.
const char* failure_reason();

}  // namespace na::cpu
