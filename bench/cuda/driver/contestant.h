// What computes attention on the tensors of a problem.
#pragma once

#include <vector>

#include "problem.h"

namespace bench {

class Contestant {
 public:
  virtual ~Contestant() = default;

  // Runs `passes` passes over the sets, each shape.runs runs long, after one that is not timed: while that runs, the
  // host has time to queue the others, so that none waits for the host. The milliseconds of each pass.
  virtual Status run(int passes, std::vector<double>* milliseconds) = 0;
};

}  // namespace bench
