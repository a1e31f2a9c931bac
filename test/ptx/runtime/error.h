// Errors as cudart keeps them: the last one of each thread, and a sticky one of each device.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace standin {

// What a call returns: the sticky error of the thread's device if there is one, else `status`, which becomes the
// thread's last error.
cudaError_t finish(cudaError_t status);

// A kernel's fault: every later call fails with it while the device is the thread's.
void fail_device(int device, cudaError_t status, const std::string& report);
cudaError_t failure_of(int device);
cudaError_t device_failure();  // of the thread's device

}  // namespace standin

// In a function of the API: returns when the thread's device has failed.
#define STANDIN_ALIVE()                                                                              \
  do {                                                                                               \
    if (standin::device_failure() != cudaSuccess) return standin::finish(standin::device_failure()); \
  } while (false)
