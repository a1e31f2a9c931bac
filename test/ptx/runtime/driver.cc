// The driver functions that host code reaches through cudaGetDriverEntryPointByVersion, or by linking this instead of
// libcuda.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <utility>

#include "c_api.h"
#include "device.h"
#include "error.h"

using namespace standin;

extern "C" {

CUresult cuInit(unsigned flags) { return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }

CUresult cuDriverGetVersion(int* version) {
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  *version = kVersion;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  if (!count) return CUDA_ERROR_INVALID_VALUE;
  *count = device_count();
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* handle, int index) {
  if (!handle) return CUDA_ERROR_INVALID_VALUE;
  if (index < 0 || index >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
  *handle = index;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice handle) {
  if (!name || length <= 0) return CUDA_ERROR_INVALID_VALUE;
  if (handle < 0 || handle >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
  std::strncpy(name, device().name, static_cast<size_t>(length));
  name[length - 1] = 0;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice handle) {
  // The runtime's numbers are the driver's.
  const auto status = cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), handle);
  if (status == cudaErrorInvalidDevice) return CUDA_ERROR_INVALID_DEVICE;
  return status == cudaSuccess ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* extent, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  char problem[512] = {};
  const int status = ptx_tensor_map(map, type, rank, address, reinterpret_cast<const uint64_t*>(extent),
                                    reinterpret_cast<const uint64_t*>(strides), box, steps, interleave, swizzle, fill,
                                    problem, sizeof problem);
  if (status == 0) return CUDA_SUCCESS;
  return CUDA_ERROR_INVALID_VALUE;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  static const std::pair<const char*, void*> kFunctions[] = {
      {"cuInit", reinterpret_cast<void*>(cuInit)},
      {"cuDriverGetVersion", reinterpret_cast<void*>(cuDriverGetVersion)},
      {"cuDeviceGetCount", reinterpret_cast<void*>(cuDeviceGetCount)},
      {"cuDeviceGet", reinterpret_cast<void*>(cuDeviceGet)},
      {"cuDeviceGetName", reinterpret_cast<void*>(cuDeviceGetName)},
      {"cuDeviceGetAttribute", reinterpret_cast<void*>(cuDeviceGetAttribute)},
      {"cuTensorMapEncodeTiled", reinterpret_cast<void*>(cuTensorMapEncodeTiled)},
  };
  if (!symbol || !function) return finish(cudaErrorInvalidValue);
  *function = nullptr;
  for (const auto& [name, address] : kFunctions) {
    if (std::strcmp(name, symbol) == 0) *function = address;
  }
  if (result) *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return finish(cudaSuccess);
}

}  // extern "C"
