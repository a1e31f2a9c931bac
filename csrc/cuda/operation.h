// What operations are made of on a device: which can run, what workspace they need, and their kernels and copies.
#pragma once

#include "cuda/device.h"

namespace na::cuda {

// operation_check of the table.
Status check(Device& device, int32_t kind, const void* args, int64_t* workspace_bytes);

// Whether one side of a copy is host memory that the device cannot reach by itself, so that a thread has to help.
bool needs_host(const na_operation& operation);

// Enqueues an operation that needs no host: attention, merge, copy, zero or launch of a graph. A mark is an event,
// which is the stream's.
cudaError_t enqueue(const Device& device, const na_operation& operation, cudaStream_t stream);

// For messages: "attention".
const char* kind_name(int32_t kind);

}  // namespace na::cuda
