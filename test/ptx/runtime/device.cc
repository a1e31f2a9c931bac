#include "device.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "error.h"

namespace standin {

const Device& device() {
  static const Device chosen = [] {
    const char* wanted = std::getenv("NODE_ATTENTION_STANDIN_CAPABILITY");
    if (!wanted || std::strcmp(wanted, "9.0") == 0) return Device{"stand-in for an H200", 9, 0, 132, 227 << 10};
    if (std::strcmp(wanted, "8.0") == 0) return Device{"stand-in for an A100", 8, 0, 108, 163 << 10};
    std::fprintf(stderr, "NODE_ATTENTION_STANDIN_CAPABILITY is %s; it may be 9.0 or 8.0\n", wanted);
    std::abort();
  }();
  return chosen;
}

}  // namespace standin

using namespace standin;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  if (!count) return finish(cudaErrorInvalidValue);
  *count = 1;
  return finish(cudaSuccess);
}

cudaError_t cudaGetDevice(int* index) {
  if (!index) return finish(cudaErrorInvalidValue);
  *index = 0;
  return finish(cudaSuccess);
}

cudaError_t cudaSetDevice(int index) { return finish(index == 0 ? cudaSuccess : cudaErrorInvalidDevice); }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
  if (!properties) return finish(cudaErrorInvalidValue);
  if (index != 0) return finish(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "%s", device().name);
  properties->major = device().major;
  properties->minor = device().minor;
  properties->multiProcessorCount = device().multiprocessors;
  properties->totalGlobalMem = size_t{8} << 30;
  properties->sharedMemPerBlock = kSharedWithoutAsking;
  properties->sharedMemPerBlockOptin = static_cast<size_t>(device().most_shared);
  properties->sharedMemPerMultiprocessor = static_cast<size_t>(device().most_shared) + 1024;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  return finish(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
  const std::map<cudaDeviceAttr, int> known = {
      {cudaDevAttrComputeCapabilityMajor, device().major},
      {cudaDevAttrComputeCapabilityMinor, device().minor},
      {cudaDevAttrMultiProcessorCount, device().multiprocessors},
      {cudaDevAttrMaxSharedMemoryPerBlock, kSharedWithoutAsking},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, device().most_shared},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, device().most_shared + 1024},
      {cudaDevAttrReservedSharedMemoryPerBlock, 1024},
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrMaxRegistersPerBlock, 65536},
      {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrL2CacheSize, 50 << 20},
      {cudaDevAttrClockRate, 1980000},
      {cudaDevAttrUnifiedAddressing, 1},
      {cudaDevAttrMemoryPoolsSupported, 1},
      {cudaDevAttrConcurrentKernels, 1},
      {cudaDevAttrAsyncEngineCount, 3},
  };
  if (index != 0) return finish(cudaErrorInvalidDevice);
  const auto found = known.find(attribute);
  if (!value || found == known.end()) return finish(cudaErrorInvalidValue);
  *value = found->second;
  return finish(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int* version) {
  if (!version) return finish(cudaErrorInvalidValue);
  *version = kVersion;
  return finish(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

}  // extern "C"
