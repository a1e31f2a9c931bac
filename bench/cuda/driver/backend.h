// A backend's table, used from one thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/backend.h"
#include "status.h"

namespace bench {

class Backend;

// Memory of the device.
class Memory {
 public:
  Memory() = default;
  Memory(Backend& backend, void* data, int64_t bytes) : backend_(&backend), data_(data), bytes_(bytes) {}
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Queued operations, which do not move until they are done, and what became of them.
class Queue {
 public:
  explicit Queue(const Backend& backend) : backend_(backend) {}
  ~Queue() { wait(); }
  Queue(const Queue&) = delete;

  // `args` stays where it is until wait().
  void submit(na_operation_kind kind, const void* args);
  // The first error since the last call.
  Status wait();

 private:
  struct Item {
    na_operation operation;  // first: done() gets its address
    Queue* queue;
  };
  static void done(na_operation* operation, const na_error* error);

  const Backend& backend_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Item>> items_;
  size_t finished_ = 0;
  Status error_;
};

class Backend {
 public:
  Status open(const char* path);

  const na_backend& table() const { return *table_; }
  na_stream* stream() const { return stream_; }

  Status allocate(int64_t bytes, Memory* memory);
  // Asks the backend whether it can run the operation, and allocates its workspace, of which `args` is then told.
  template <typename Arguments>
  Status admit(na_operation_kind kind, Arguments* args, Memory* workspace) {
    int64_t bytes = 0;
    na_error error = {};
    if (table_->operation_check(0, kind, args, &bytes, &error) != NA_OK) return error.message;
    if (bytes == 0) return {};
    const Status status = allocate(bytes, workspace);
    args->workspace = workspace->data();
    return status;
  }
  // Copies bytes between host and device or within the device, and waits.
  Status copy(void* to, const void* from, int64_t bytes);

 private:
  const na_backend* table_ = nullptr;
  na_stream* stream_ = nullptr;
};

// A contiguous tensor.
na_tensor tensor(void* data, na_dtype dtype, std::initializer_list<int64_t> shape);

}  // namespace bench
