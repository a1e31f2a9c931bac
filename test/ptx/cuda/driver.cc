// The stand-in for libcuda.so.1, which the addon's loader asks for its version and devices.
#include <cuda_runtime_api.h>

#define DRIVER_API extern "C" __attribute__((visibility("default")))

DRIVER_API int cuInit(unsigned) { return 0; }
DRIVER_API int cuDriverGetVersion(int* version) { return cudaDriverGetVersion(version); }
DRIVER_API int cuDeviceGetCount(int* count) { return cudaGetDeviceCount(count); }
