// Recorded operations as a graph of CUDA.
#pragma once

#include "cuda/device.h"

struct na_graph {
  cudaGraphExec_t exec;
};

namespace na::cuda {

Status create_graph(Device& device, const na_operation* const* operations, int32_t count, na_graph** graph);
void destroy_graph(na_graph* graph);

}  // namespace na::cuda
