// Host memory for tensors: 64-byte aligned, in size classes, freed blocks kept for reuse up to a limit.
#pragma once

#include <cstdint>

namespace na::cpu {

// NULL when the machine does not have that much. Huge pages back blocks of 2 MiB and more.
void* allocate(int64_t bytes, bool zeroed);
void release(void* data, int64_t bytes);

int64_t pooled_bytes();

// What this process may use: the machine's memory or its control group's limit.
int64_t physical_memory();

}  // namespace na::cpu
