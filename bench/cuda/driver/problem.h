// One attention problem on the device, in several sets of tensors.
#pragma once

#include <vector>

#include "backend.h"
#include "driver.h"

namespace bench {

struct Tensors {
  Memory q, k, v, out, lse;
};

struct Problem {
  driver_shape shape;
  std::vector<Tensors> sets;
};

// Allocates and fills the tensors, see driver_problem().
Status make_problem(Backend& backend, const driver_shape& shape, const uint16_t* block, int64_t count,
                    Problem* problem);
Status poison(Backend& backend, const Problem& problem);

}  // namespace bench
