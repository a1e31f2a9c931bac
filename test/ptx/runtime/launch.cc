// How objects made by nvcc announce their kernels, and launches.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "c_api.h"
#include "device.h"
#include "error.h"
#include "kernels.h"
#include "standin.h"
#include "stream.h"

using namespace standin;

namespace {

constexpr int kMostParameters = 256;

std::mutex interpreter;  // one kernel at a time
std::string last_kernel, shown_kernel;
std::map<std::string, uint64_t> launches;
std::atomic<uint64_t> schedule_seed{0};
std::atomic<int> schedule_asynchrony{0};
std::atomic<bool> fail_next{false};

// The configuration of kernel<<<...>>> between its two halves.
struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;

cudaError_t check(const Kernel& kernel, dim3 grid, dim3 block, size_t shared) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  const int allowed = kernel.dynamic_shared > kSharedWithoutAsking ? kernel.dynamic_shared : kSharedWithoutAsking;
  return shared > static_cast<size_t>(allowed) ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t error_of(const std::string& report) {
  if (report.find("misaligned") != std::string::npos) return cudaErrorMisalignedAddress;
  if (report.find("out of bounds") != std::string::npos) return cudaErrorIllegalAddress;
  return cudaErrorLaunchFailure;
}

cudaError_t launch(Kernel* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t handle) {
  if (device_failure() != cudaSuccess) return device_failure();
  CUstream_st* stream = find_stream(handle);
  if (!stream || stream->device != current_device()) return cudaErrorInvalidResourceHandle;
  if (!kernel) return cudaErrorInvalidDeviceFunction;
  const cudaError_t status = check(*kernel, grid, block, shared);
  if (status != cudaSuccess) return status;
  std::string problem;
  ptx_module* module = find_module(kernel->name, problem);
  if (!module) {
    std::fprintf(stderr, "stand-in CUDA runtime: %s\n", problem.c_str());
    return cudaErrorNoKernelImageForDevice;
  }
  // Arguments are taken at the call, as on a device.
  uint64_t offsets[kMostParameters], sizes[kMostParameters], bytes = 0;
  const int count = ptx_parameters(module, kernel->name.c_str(), offsets, sizes, kMostParameters, &bytes);
  std::vector<char> parameters(bytes);
  for (int i = 0; i < count; i++) std::memcpy(parameters.data() + offsets[i], arguments[i], sizes[i]);
  enqueue(*stream, [=, device = stream->device, name = kernel->name, parameters = std::move(parameters)] {
    if (failure_of(device) != cudaSuccess) return;
    const std::lock_guard<std::mutex> lock(interpreter);
    last_kernel = name;
    launches[name]++;
    const uint32_t grid3[] = {grid.x, grid.y, grid.z}, block3[] = {block.x, block.y, block.z};
    if (fail_next.exchange(false)) return fail_device(device, cudaErrorIllegalAddress, name + ": as it was asked to");
    std::vector<char> report(1 << 16);
    const int failed = ptx_launch(module, name.c_str(), grid3, block3, static_cast<uint32_t>(shared), parameters.data(),
                                  parameters.size(), schedule_seed, schedule_asynchrony, report.data(), report.size());
    if (failed != 0) fail_device(device, error_of(report.data()), name + ": " + report.data());
  });
  return cudaSuccess;
}

}  // namespace

void standin_schedule(uint64_t seed, int asynchrony) {
  schedule_seed = seed;
  schedule_asynchrony = asynchrony;
}

const char* standin_last_kernel(void) {
  const std::lock_guard<std::mutex> lock(interpreter);
  shown_kernel = last_kernel;
  return shown_kernel.c_str();
}

uint64_t standin_launches(const char* part) {
  const std::lock_guard<std::mutex> lock(interpreter);
  uint64_t sum = 0;
  for (const auto& [name, count] : launches) sum += name.find(part) == std::string::npos ? 0 : count;
  return sum;
}

void standin_fail_next(void) { fail_next = true; }

extern "C" {

// --- what nvcc's generated code calls

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* host_function, char*, const char* name, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  add_kernel(host_function, name);
}

// Variables of device code are the interpreter's; host code cannot reach them here.
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (configurations.empty()) return finish(cudaErrorInvalidConfiguration);
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* handle, const void* host_function) {
  *handle = reinterpret_cast<cudaKernel_t>(find_kernel(host_function));
  return *handle ? cudaSuccess : finish(cudaErrorInvalidDeviceFunction);
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return finish(launch(reinterpret_cast<Kernel*>(kernel), grid, block, arguments, shared, stream));
}

// --- what programs call

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  return finish(launch(find_kernel(function), grid, block, arguments, shared, stream));
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  if (!config) return finish(cudaErrorInvalidValue);
  for (unsigned i = 0; i < config->numAttrs; i++) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    const dim3 one(1, 1, 1);
    const auto& cluster = attribute.val.clusterDim;
    if (attribute.id == cudaLaunchAttributeClusterDimension &&
        (cluster.x != one.x || cluster.y != one.y || cluster.z != one.z)) {
      return finish(cudaErrorNotSupported);
    }
  }
  return finish(launch(find_kernel(function), config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes,
                       config->stream));
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  STANDIN_ALIVE();
  Kernel* kernel = find_kernel(function);
  if (!kernel) return finish(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return finish(cudaSuccess);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return finish(cudaErrorInvalidValue);
  if (value < 0 || value > device().most_shared) return finish(cudaErrorInvalidValue);
  kernel->dynamic_shared = value;
  return finish(cudaSuccess);
}

// What is known without machine code; the rest is 0.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  STANDIN_ALIVE();
  const Kernel* kernel = find_kernel(function);
  if (!attributes || !kernel) return finish(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->maxDynamicSharedSizeBytes = std::max(kernel->dynamic_shared, kSharedWithoutAsking);
  attributes->binaryVersion = attributes->ptxVersion = 10 * device().major + device().minor;
  return finish(cudaSuccess);
}

// Without machine code nobody knows how many blocks fit: one, which every kernel must be able to live with.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function, int, size_t,
                                                                   unsigned) {
  STANDIN_ALIVE();
  if (!blocks || !find_kernel(function)) return finish(cudaErrorInvalidDeviceFunction);
  *blocks = 1;
  return finish(cudaSuccess);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int threads,
                                                          size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}

}  // extern "C"
