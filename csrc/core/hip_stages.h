// What the stages of hipPlan() do on every backend.
#pragma once

#include "core/backend.h"

namespace na {

constexpr int32_t kHipTogether = 4;  // queries whose mean stands for them, but in the last stage

// How many keys a stage keeps for each block of the budget unless it is told how many keys to keep: four times those of
// the stage behind it.
inline int64_t hip_keep_times(const na_select& select, int32_t stage) {
  int64_t times = select.out->key_block;
  for (int32_t later = stage + 1; later < select.stages; later++) times *= 4;
  return times;
}

}  // namespace na
