// Launches of kernels from the host.
#pragma once

#include <cuda_runtime_api.h>

namespace na::cuda {

template <typename T>
struct Same {
  using Type = T;
};

// With the status of this launch alone, which cudaGetLastError() would not tell from that of a call before.
template <typename... Parameters>
cudaError_t enqueue_kernel(void (*kernel)(Parameters...), dim3 blocks, unsigned threads, cudaStream_t stream,
                           const typename Same<Parameters>::Type&... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, dim3(threads), pointers, 0, stream);
}

}  // namespace na::cuda
