// Numbers that the host knows become elements of a tensor. They travel as arguments of kernels, which take no memory of
// the host that would have to be kept, or waited for.
#include <algorithm>

#include "kv/kv.h"

namespace na::cuda {

constexpr int kPutThreads = 128, kMostPuts = 240;  // arguments have 4 KiB

struct PutArguments {
  int64_t* to;
  int64_t count;
  int64_t places[kMostPuts], values[kMostPuts];
};
static_assert(sizeof(PutArguments) <= 4096);

__global__ void __launch_bounds__(kPutThreads) put_kernel(const __grid_constant__ PutArguments a) {
  for (int i = static_cast<int>(threadIdx.x); i < a.count; i += kPutThreads) a.to[a.places[i]] = a.values[i];
}

cudaError_t put(const na_put& put, cudaStream_t stream) {
  PutArguments arguments{static_cast<int64_t*>(put.to->data), 0, {}, {}};
  for (int64_t first = 0; first < put.count; first += kMostPuts) {
    arguments.count = std::min<int64_t>(put.count - first, kMostPuts);
    std::copy_n(put.places + first, arguments.count, arguments.places);
    std::copy_n(put.values + first, arguments.count, arguments.values);
    put_kernel<<<1, kPutThreads, 0, stream>>>(arguments);
    if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace na::cuda
