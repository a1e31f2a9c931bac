// Device memory, and memory of the host that devices can reach by themselves ("pinned").
//
// Blocks come from cudaMalloc and cudaHostAlloc in size classes, and go back to a list of the device, never to CUDA
// while memory lasts. The caller frees a block only when all work that names it is done, so whoever takes it from the
// list may use it at once, on any stream, and neither way costs a call of the driver. cudaMallocAsync solves another
// problem, memory that is given back while work on it is still queued, and for that orders each block by streams: its
// blocks would have to be waited for, or be bound to the stream that took them. cudaFree waits for the whole device; it
// is called only when memory has run out.
#pragma once

#include "cuda/device.h"

namespace na::cuda {

// Memory of the device, pinned memory, or pinned memory for a piece of a copy, which is granted whatever the host has
// left: a stream has few of them, and what is enqueued would fail for want of one.
enum class Use { kDevice, kPinned, kStaging };

Status allocate(Device& device, int64_t bytes, Use use, void** data);

// From any thread; calls nothing of CUDA.
void release(Device& device, int64_t bytes, Use use, void* data);

// What a pointer may be used for: memory that kernels reach, of this device or pinned, or that of another device, or
// the host's alone.
enum class Place { kReachable, kOtherDevice, kPageable };
Place place_of(const Device& device, const void* data);

}  // namespace na::cuda
