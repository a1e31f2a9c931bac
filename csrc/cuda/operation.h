// What operations are on a device.
#pragma once

#include "cuda/device.h"

struct na_graph {
  na::cuda::Device* device;
  cudaGraphExec_t executable;
  int64_t launches;  // see below
};

namespace na::cuda {

const char* operation_name(int32_t kind);

// See na_backend.
Status check_operation(Device& device, int32_t kind, const void* args, int64_t* workspace_bytes);

// Enqueues all operations but marks and copies of pageable memory.
Status enqueue(Device& device, const na_operation& operation, cudaStream_t stream);

// How many kernels, copies and the like an operation enqueues at most; of a copy of pageable memory, a piece.
int64_t launches(const Device& device, const na_operation& operation);

// See na_backend.
Status create_graph(Device& device, const na_operation* const* operations, int32_t count, na_graph** graph);

}  // namespace na::cuda
