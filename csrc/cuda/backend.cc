// The backend table of the CUDA library.
#include "core/backend.h"

#include <algorithm>
#include <cstdio>

#include "cuda/memory.h"
#include "cuda/operation.h"
#include "cuda/stream.h"

namespace na::cuda {
namespace {

int tell(const Status& status, na_error* error) {
  if (status.ok()) return NA_OK;
  error->code = status.code;
  snprintf(error->message, sizeof(error->message), "%s", status.message.c_str());
  return error->code;
}

int32_t device_count() { return Device::count(); }

void device_info(int32_t index, na_device_info* info) {
  const Device& device = Device::at(index);
  snprintf(info->name, sizeof(info->name), "%s", device.name.c_str());
  snprintf(info->instruction_set, sizeof(info->instruction_set), "sm_%d%d", device.major, device.minor);
  info->threads = device.multiprocessors;
  info->memory_bytes = device.memory_bytes;
}

int device_status(int32_t index, na_error* error) { return tell(Device::at(index).status(), error); }

int memory_allocate(int32_t index, int64_t bytes, int pinned, int, void** data, na_error* error) {
  return tell(allocate(Device::at(index), bytes, pinned ? Use::kPinned : Use::kDevice, data), error);
}

void memory_free(int32_t index, int64_t bytes, int pinned, void* data) {
  release(Device::at(index), bytes, pinned ? Use::kPinned : Use::kDevice, data);
}

int64_t memory_pooled(int32_t index) {
  const Device& device = Device::at(index);
  return device.memory.bytes() + device.pinned.bytes() + device.staging.bytes();
}

int stream_create(int32_t index, na_stream** stream, na_error* error) {
  return tell(na_stream::create(Device::at(index), stream), error);
}

void stream_destroy(na_stream* stream) { stream->destroy(); }

int operation_check(int32_t index, int32_t kind, const void* args, int64_t* workspace_bytes, na_error* error) {
  return tell(check_operation(Device::at(index), kind, args, workspace_bytes), error);
}

void submit(na_stream* stream, na_operation* operation, const na_wait* waits, int32_t wait_count) {
  stream->submit(operation, waits, wait_count);
}

// The stream's own threads end what is cancelled, without doing it, as fast as this thread could.
int64_t stream_drain(na_stream*) { return 0; }

int graph_create(int32_t index, const na_operation* const* operations, int32_t count, na_graph** graph,
                 na_error* error) {
  return tell(create_graph(Device::at(index), operations, count, graph), error);
}

void graph_destroy(na_graph* graph) {
  cudaGraphExecDestroy(graph->executable);
  delete graph;
}

// A driver serves every runtime of its major version; CUDA 12.8 is the first that knows all architectures here.
constexpr int32_t kOldestDriver = std::max(CUDART_VERSION / 1000 * 1000, 12080);

const na_backend kTable = {
    NA_BACKEND_ABI, sizeof(na_backend), "cuda",          NODE_ATTENTION_BUILD, kOldestDriver, device_count,
    device_info,    device_status,      memory_allocate, memory_free,          memory_pooled, stream_create,
    stream_destroy, operation_check,    submit,          stream_drain,         graph_create,  graph_destroy,
};

}  // namespace
}  // namespace na::cuda

extern "C" __attribute__((visibility("default"))) const na_backend* node_attention_backend(uint32_t abi) {
  return abi == NA_BACKEND_ABI || abi == 0 ? &na::cuda::kTable : nullptr;
}
