// Device and pinned memory. Both are host memory here; what tells them apart is who may touch them: kernels only what
// is registered with the interpreter, copies only what they are told. Allocations have exactly the size that was asked
// for.
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "c_api.h"
#include "device.h"
#include "error.h"
#include "standin.h"
#include "stream.h"

using namespace standin;

namespace {

constexpr size_t kAlignment = 256;

// Of each device, and of what may be pinned.
size_t total_memory() {
  static const size_t total = [] {
    const char* wanted = std::getenv("NODE_ATTENTION_STANDIN_MEMORY");
    return wanted ? static_cast<size_t>(std::atoll(wanted)) : size_t{8} << 30;
  }();
  return total;
}

struct Allocation {
  size_t bytes;
  cudaMemoryType type;
  int device;       // that allocated it
  bool registered;  // memory of the program, pinned later
};

std::mutex mutex;
size_t used[kMostDevices] = {}, pinned = 0;
size_t& used_by(const Allocation& of) { return of.type == cudaMemoryTypeDevice ? used[of.device] : pinned; }
std::map<uintptr_t, Allocation>& allocations() {
  static auto* all = new std::map<uintptr_t, Allocation>();
  return *all;
}

// The allocation that holds the address, with what is left of it from there.
struct Place {
  cudaMemoryType type = cudaMemoryTypeUnregistered;
  int device = cudaInvalidDeviceId;
  size_t left = 0;
};
Place place_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const std::lock_guard<std::mutex> lock(mutex);
  auto after = allocations().upper_bound(address);
  if (after == allocations().begin()) return {};
  const auto& [start, allocation] = *--after;
  if (address - start >= allocation.bytes) return {};
  return {allocation.type, allocation.device, allocation.bytes - (address - start)};
}

cudaError_t allocate(void** pointer, size_t bytes, cudaMemoryType type, int device = current_device()) {
  if (!pointer) return cudaErrorInvalidValue;
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  const std::lock_guard<std::mutex> lock(mutex);
  void* memory = nullptr;
  const Allocation made{bytes, type, device, false};
  if (bytes > total_memory() - used_by(made) || posix_memalign(&memory, kAlignment, bytes) != 0)
    return cudaErrorMemoryAllocation;
  std::memset(memory, 0xff, bytes);  // NaN in every float type
  allocations()[reinterpret_cast<uintptr_t>(memory)] = made;
  used_by(made) += bytes;
  ptx_memory_add(memory, bytes, 1);
  *pointer = memory;
  return cudaSuccess;
}

cudaError_t release(void* pointer, cudaMemoryType type) {
  if (!pointer) return cudaSuccess;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = allocations().find(reinterpret_cast<uintptr_t>(pointer));
    if (found == allocations().end() || found->second.type != type || found->second.registered) {
      return cudaErrorInvalidValue;
    }
    used_by(found->second) -= found->second.bytes;
    allocations().erase(found);
  }
  ptx_memory_remove(pointer);
  std::free(pointer);
  return cudaSuccess;
}

bool on_device(const void* pointer) { return place_of(pointer).type == cudaMemoryTypeDevice; }

// Whether [pointer, pointer + bytes) is what the kind of a copy says of that side.
bool fits(const void* pointer, size_t bytes, bool device, bool any) {
  const Place place = place_of(pointer);
  if (place.type == cudaMemoryTypeUnregistered) return any || !device;
  if (bytes > place.left) return false;
  return any || (place.type == cudaMemoryTypeDevice) == device || place.type == cudaMemoryTypeHost;
}

cudaError_t check_copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return cudaErrorInvalidValue;
  const bool any = kind == cudaMemcpyDefault;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return fits(to, bytes, to_device, any) && fits(from, bytes, from_device, any) ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

extern "C" {

void standin_poison_pinned(void) {
  drain_device();
  const std::lock_guard<std::mutex> lock(mutex);
  for (const auto& [start, allocation] : allocations()) {
    if (allocation.type != cudaMemoryTypeHost || allocation.registered) continue;
    std::memset(reinterpret_cast<void*>(start), 0xff, allocation.bytes);
  }
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  STANDIN_ALIVE();
  return finish(allocate(pointer, bytes, cudaMemoryTypeDevice));
}

cudaError_t cudaFree(void* pointer) {
  drain_device();
  return finish(release(pointer, cudaMemoryTypeDevice));
}

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
  STANDIN_ALIVE();
  const CUstream_st* on = find_stream(stream);
  if (!on) return finish(cudaErrorInvalidResourceHandle);
  return finish(allocate(pointer, bytes, cudaMemoryTypeDevice, on->device));
}

// Pools: every device has its default one, which keeps nothing.
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  static char pools[kMostDevices];
  if (!pool || device < 0 || device >= device_count()) return finish(cudaErrorInvalidValue);
  *pool = reinterpret_cast<cudaMemPool_t>(&pools[device]);
  return finish(cudaSuccess);
}

cudaError_t cudaDeviceGetMemPool(cudaMemPool_t* pool, int device) { return cudaDeviceGetDefaultMemPool(pool, device); }

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  return finish(pool && value ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  if (!pool || !value) return finish(cudaErrorInvalidValue);
  cudaMemPool_t first;
  cudaDeviceGetDefaultMemPool(&first, 0);
  const auto device = reinterpret_cast<char*>(pool) - reinterpret_cast<char*>(first);
  const std::lock_guard<std::mutex> lock(mutex);
  switch (attribute) {
    case cudaMemPoolAttrReservedMemCurrent:
    case cudaMemPoolAttrUsedMemCurrent: *static_cast<uint64_t*>(value) = used[device]; return finish(cudaSuccess);
    default: return finish(cudaErrorNotSupported);
  }
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) { return finish(pool ? cudaSuccess : cudaErrorInvalidValue); }

cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  if (!pool) return finish(cudaErrorInvalidValue);
  return cudaMallocAsync(pointer, bytes, stream);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t handle) {
  CUstream_st* stream = find_stream(handle);
  if (!stream) return finish(cudaErrorInvalidResourceHandle);
  if (pointer && !on_device(pointer)) return finish(cudaErrorInvalidValue);
  enqueue(*stream, [pointer] { release(pointer, cudaMemoryTypeDevice); });
  return finish(cudaSuccess);
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  STANDIN_ALIVE();
  return finish(allocate(pointer, bytes, cudaMemoryTypeHost));
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }

cudaError_t cudaFreeHost(void* pointer) {
  drain_device();
  return finish(release(pointer, cudaMemoryTypeHost));
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  STANDIN_ALIVE();
  if (!pointer || bytes == 0) return finish(cudaErrorInvalidValue);
  const std::lock_guard<std::mutex> lock(mutex);
  const auto start = reinterpret_cast<uintptr_t>(pointer);
  const auto next = allocations().lower_bound(start + bytes);
  if (next != allocations().begin()) {
    const auto& [before, allocation] = *std::prev(next);
    if (before + allocation.bytes > start) return finish(cudaErrorHostMemoryAlreadyRegistered);
  }
  allocations()[start] = {bytes, cudaMemoryTypeHost, current_device(), true};
  ptx_memory_add(pointer, bytes, 1);
  return finish(cudaSuccess);
}

cudaError_t cudaHostUnregister(void* pointer) {
  drain_device();
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = allocations().find(reinterpret_cast<uintptr_t>(pointer));
    if (found == allocations().end() || !found->second.registered) return finish(cudaErrorHostMemoryNotRegistered);
    allocations().erase(found);
  }
  ptx_memory_remove(pointer);
  return finish(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  if (!attributes) return finish(cudaErrorInvalidValue);
  const Place place = place_of(pointer);
  *attributes = {};
  attributes->type = place.type;
  attributes->device = place.device;
  if (place.type != cudaMemoryTypeUnregistered) attributes->devicePointer = const_cast<void*>(pointer);
  if (place.type != cudaMemoryTypeDevice) attributes->hostPointer = const_cast<void*>(pointer);
  return finish(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  STANDIN_ALIVE();
  const std::lock_guard<std::mutex> lock(mutex);
  if (free) *free = total_memory() - used[current_device()];
  if (total) *total = total_memory();
  return finish(cudaSuccess);
}

// As CUDA documents it: from pageable memory the data are taken before the call returns, to pageable memory the call
// returns when they are there; pinned and device memory are read and written when the stream comes to it.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t handle) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream) return finish(cudaErrorInvalidResourceHandle);
  const cudaError_t status = check_copy(to, from, bytes, kind);
  if (status != cudaSuccess || bytes == 0) return finish(status);
  const auto alive = [device = stream->device] { return failure_of(device) == cudaSuccess; };
  const bool pageable_from = place_of(from).type == cudaMemoryTypeUnregistered;
  const bool pageable_to = place_of(to).type == cudaMemoryTypeUnregistered;
  if (stream->capture && (pageable_from || pageable_to)) return finish(cudaErrorStreamCaptureUnsupported);
  if (pageable_from) {
    const auto* data = static_cast<const char*>(from);
    enqueue(*stream, [to, alive, staged = std::vector<char>(data, data + bytes)] {
      if (alive()) std::memcpy(to, staged.data(), staged.size());
    });
  } else {
    enqueue(*stream, [to, from, bytes, alive] {
      if (alive()) std::memmove(to, from, bytes);
    });
  }
  if (pageable_to) stream->drain();
  return finish(cudaSuccess);
}

// Row by row, each under the rules of the whole.
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return finish(cudaErrorInvalidPitchValue);
  for (size_t row = 0; row < height; row++) {
    const cudaError_t status = cudaMemcpyAsync(static_cast<char*>(to) + row * to_pitch,
                                               static_cast<const char*>(from) + row * from_pitch, width, kind, stream);
    if (status != cudaSuccess) return status;
  }
  return finish(cudaSuccess);
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                                cudaStream_t stream) {
  if (place_of(to).device != to_device || place_of(from).device != from_device) return finish(cudaErrorInvalidValue);
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return status == cudaSuccess ? cudaStreamSynchronize(nullptr) : status;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t handle) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream || stream->device != current_device()) return finish(cudaErrorInvalidResourceHandle);
  const Place place = place_of(to);
  if (place.type == cudaMemoryTypeUnregistered || bytes > place.left) return finish(cudaErrorInvalidValue);
  enqueue(*stream, [to, value, bytes, device = stream->device] {
    if (failure_of(device) == cudaSuccess) std::memset(to, value, bytes);
  });
  return finish(cudaSuccess);
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  const cudaError_t status = cudaMemsetAsync(to, value, bytes, nullptr);
  return status == cudaSuccess ? cudaStreamSynchronize(nullptr) : status;
}

}  // extern "C"
