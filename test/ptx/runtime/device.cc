#include "device.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "error.h"

namespace standin {

namespace {

Device whole_device() {
  const char* wanted = std::getenv("NODE_ATTENTION_STANDIN_CAPABILITY");
  if (!wanted || std::strcmp(wanted, "9.0") == 0) return Device{"stand-in for an H200", 9, 0, 132, 227 << 10};
  if (std::strcmp(wanted, "8.0") == 0) return Device{"stand-in for an A100", 8, 0, 108, 163 << 10};
  std::fprintf(stderr, "NODE_ATTENTION_STANDIN_CAPABILITY is %s; it may be 9.0 or 8.0\n", wanted);
  std::abort();
}

}  // namespace

const Device& device() {
  static const Device chosen = [] {
    Device device = whole_device();
    const char* wanted = std::getenv("NODE_ATTENTION_STANDIN_MULTIPROCESSORS");
    if (!wanted) return device;
    device.multiprocessors = std::atoi(wanted);
    if (device.multiprocessors > 0) return device;
    std::fprintf(stderr, "NODE_ATTENTION_STANDIN_MULTIPROCESSORS is %s; it may be 1 or more\n", wanted);
    std::abort();
  }();
  return chosen;
}

int device_count() {
  static const int count = [] {
    const char* wanted = std::getenv("NODE_ATTENTION_STANDIN_DEVICES");
    const int number = wanted ? std::atoi(wanted) : 1;
    if (number >= 0 && number <= kMostDevices) return number;
    std::fprintf(stderr, "NODE_ATTENTION_STANDIN_DEVICES is %s; it may be 0 to %d\n", wanted, kMostDevices);
    std::abort();
  }();
  return count;
}

static thread_local int current = 0;

int current_device() { return current; }

}  // namespace standin

using namespace standin;

static bool exists(int index) { return index >= 0 && index < device_count(); }

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  if (!count) return finish(cudaErrorInvalidValue);
  *count = device_count();
  return finish(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* index) {
  if (!index) return finish(cudaErrorInvalidValue);
  *index = current;
  return finish(cudaSuccess);
}

cudaError_t cudaSetDevice(int index) {
  if (!exists(index)) return finish(cudaErrorInvalidDevice);
  current = index;
  return finish(cudaSuccess);
}

cudaError_t cudaInitDevice(int index, unsigned, unsigned) {
  return finish(exists(index) ? cudaSuccess : cudaErrorInvalidDevice);
}

// Who may reach whose memory is not modelled: every device reaches all.
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!can || !exists(device) || !exists(peer)) return finish(cudaErrorInvalidValue);
  *can = device != peer;
  return finish(cudaSuccess);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  return finish(exists(peer) && peer != current && flags == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
  if (!properties) return finish(cudaErrorInvalidValue);
  if (!exists(index)) return finish(cudaErrorInvalidDevice);
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
  if (!exists(index)) return finish(cudaErrorInvalidDevice);
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
