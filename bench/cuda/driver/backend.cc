#include "backend.h"

#include <utility>

#include "library.h"

namespace bench {

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Memory::~Memory() {
  if (data_) backend_->table().memory_free(0, bytes_, 0, data_);
}

void Queue::submit(na_operation_kind kind, const void* args) {
  static const int32_t never = 0;
  auto item = std::make_unique<Item>();
  item->operation = {};
  item->operation.kind = kind;
  item->operation.args = args;
  item->operation.done = done;
  item->operation.cancelled = &never;
  item->queue = this;
  na_operation* operation = &item->operation;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    items_.push_back(std::move(item));
  }
  backend_.table().submit(backend_.stream(), operation, nullptr, 0);
}

Status Queue::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return finished_ == items_.size(); });
  items_.clear();
  finished_ = 0;
  return std::exchange(error_, {});
}

// Notifies under the lock: the queue may be gone as soon as it is released.
void Queue::done(na_operation* operation, const na_error* error) {
  Queue& queue = *reinterpret_cast<Item*>(operation)->queue;
  const std::lock_guard<std::mutex> lock(queue.mutex_);
  if (error && queue.error_.empty()) queue.error_ = error->message;
  queue.finished_++;
  queue.changed_.notify_all();
}

Status Backend::open(const char* path) {
  Library library;
  if (Status status = library.open(path); !status.empty()) return status;
  const na_backend* (*entry)(uint32_t) = nullptr;
  if (Status status = library.find("node_attention_backend", entry); !status.empty()) return status;
  table_ = entry(NA_BACKEND_ABI);
  if (!table_ || table_->abi != NA_BACKEND_ABI || table_->size != sizeof(na_backend)) {
    return std::string(path) + " speaks another version of the backend table";
  }
  if (table_->device_count() < 1) return "there is no CUDA device";
  na_error error = {};
  if (table_->device_status(0, &error) != NA_OK) return error.message;
  return table_->stream_create(0, &stream_, &error) == NA_OK ? Status() : Status(error.message);
}

Status Backend::allocate(int64_t bytes, Memory* memory) {
  void* data = nullptr;
  na_error error = {};
  if (table_->memory_allocate(0, bytes, 0, 0, &data, &error) != NA_OK) return error.message;
  *memory = Memory(*this, data, bytes);
  return {};
}

Status Backend::copy(void* to, const void* from, int64_t bytes) {
  const na_tensor source = tensor(const_cast<void*>(from), NA_UINT8, {bytes}), target = tensor(to, NA_UINT8, {bytes});
  na_copy args = {};
  args.src = &source;
  args.dst = &target;
  Memory workspace;
  if (Status status = admit(NA_OP_COPY, &args, &workspace); !status.empty()) return status;
  Queue queue(*this);
  queue.submit(NA_OP_COPY, &args);
  return queue.wait();
}

na_tensor tensor(void* data, na_dtype dtype, std::initializer_list<int64_t> shape) {
  na_tensor tensor = {};
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = static_cast<int32_t>(shape.size());
  int axis = 0;
  for (const int64_t extent : shape) tensor.shape[axis++] = extent;
  for (int64_t stride = 1; axis-- > 0; stride *= tensor.shape[axis]) tensor.stride[axis] = stride;
  return tensor;
}

}  // namespace bench
