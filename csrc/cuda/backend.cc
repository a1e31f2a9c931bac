// The table of the CUDA backend.
#include <cstdio>

#include "cuda/graph.h"
#include "cuda/operation.h"
#include "cuda/stream.h"

namespace na::cuda {
namespace {

int32_t device_count() { return static_cast<int32_t>(Device::all().size()); }

void device_info(int32_t device, na_device_info* info) {
  const cudaDeviceProp& properties = Device::at(device).properties;
  snprintf(info->name, sizeof(info->name), "%.127s", properties.name);
  snprintf(info->instruction_set, sizeof(info->instruction_set), "sm_%d%d", properties.major, properties.minor);
  info->threads = properties.multiProcessorCount;
  info->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
}

int device_status(int32_t device, na_error* error) { return put(Device::at(device).status(), error); }

int memory_allocate(int32_t device, int64_t bytes, int pinned, int zeroed, void** data, na_error* failure) {
  Device& on = Device::at(device);
  Status status = on.status();
  if (status.ok()) status = (pinned ? on.pinned : on.memory).allocate(bytes, data);
  if (status.ok() && zeroed) __builtin_memset(*data, 0, static_cast<size_t>(bytes));  // the host's
  return put(status, failure);
}

void memory_free(int32_t device, int64_t bytes, int pinned, void* data) {
  Device& on = Device::at(device);
  (pinned ? on.pinned : on.memory).release(data, bytes);
}

int64_t memory_pooled(int32_t device) { return Device::at(device).memory.pooled(); }

int stream_create(int32_t device, na_stream** stream, na_error* error) {
  std::shared_ptr<Stream> made;
  const Status status = Stream::open(Device::at(device), &made);
  if (status.ok()) *stream = new na_stream{std::move(made)};
  return put(status, error);
}

void stream_destroy(na_stream* stream) {
  stream->stream->close();
  delete stream;
}

int operation_check(int32_t device, int32_t kind, const void* args, int64_t* workspace_bytes, na_error* error) {
  return put(check(Device::at(device), kind, args, workspace_bytes), error);
}

void submit(na_stream* stream, na_operation* operation, const na_wait* waits, int32_t wait_count) {
  stream->stream->submit(operation, waits, wait_count);
}

// Each operation that was cancelled before it was issued ends by itself: a thread finds it in its turn and passes over
// it. What the device has begun cannot be called back.
int64_t stream_drain(na_stream*) { return 0; }

int graph_create(int32_t device, const na_operation* const* operations, int32_t count, na_graph** graph,
                 na_error* error) {
  return put(create_graph(Device::at(device), operations, count, graph), error);
}

const na_backend kTable = {
    NA_BACKEND_ABI,  sizeof(na_backend), "cuda",        device_count,  device_info,    device_status,
    memory_allocate, memory_free,        memory_pooled, stream_create, stream_destroy, operation_check,
    submit,          stream_drain,       graph_create,  destroy_graph,
};

}  // namespace
}  // namespace na::cuda

extern "C" __attribute__((visibility("default"))) const na_backend* node_attention_backend(uint32_t abi) {
  return abi == NA_BACKEND_ABI ? &na::cuda::kTable : nullptr;
}
