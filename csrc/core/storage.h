// A block of memory on a device, shared by tensors, and the points at which it was last written and read.
#pragma once

#include <vector>

#include "core/device.h"
#include "core/ref.h"
#include "core/timeline.h"

namespace na {

// Why the contents of memory are worth nothing: the work that was to write it failed, or what that work read was so.
struct Failure : RefCounted {
  explicit Failure(Status status) : status(std::move(status)) {}
  const Status status;
};

class Storage : public RefCounted {
 public:
  // Library memory, 64-byte aligned. `pinned`, on the host: by a GPU's backend, if there is one.
  static Status allocate(Device* device, int64_t bytes, bool pinned, bool zeroed, Ref<Storage>* storage);
  // Memory of somebody else; `released(owner)` is called, from any thread, when nothing uses it any more.
  static Ref<Storage> adopt(Device* device, void* data, int64_t bytes, void (*released)(void*), void* owner);

  Device* const device;
  void* const data;
  const int64_t bytes;
  const Device* const pinned_by;  // for host memory that a GPU can copy from and to by itself; otherwise null

  // Bookkeeping of order; touched by the environment's JavaScript thread alone. At most one reader a stream.
  Point last_write;
  std::vector<Point> readers;

  bool pending() const { return !last_write.done(); }

  // Set, from any thread, before the operation that failed is known to be done. The first stays.
  void fail(Ref<Failure> failure);
  Failure* failure() const { return failure_.load(std::memory_order_acquire); }
  Status status() const { return failure() ? failure()->status : Status{}; }
  static bool any_failed() { return any_failed_.load(std::memory_order_relaxed); }

  // Handles in JavaScript, and whether an ArrayBuffer was made of this memory. Memory that only an ArrayBuffer holds
  // is JavaScript's: it is no longer counted among the tensors alive. JavaScript thread alone.
  void handle_made() { handles_++; }
  void handle_gone();
  bool exposed = false;

 protected:
  ~Storage() override;

 private:
  Storage(Device* device, void* data, int64_t bytes, const Device* pinned_by, void (*released)(void*), void* owner)
      : device(device), data(data), bytes(bytes), pinned_by(pinned_by), released_(released), owner_(owner) {}
  int64_t counted_bytes() const { return released_ ? 0 : bytes; }  // of the library's own
  int64_t handles_ = 0;
  bool counted_ = true;
  std::atomic<Failure*> failure_{nullptr};
  inline static std::atomic<bool> any_failed_{false};  // in this process: until then nobody need look
  void (*const released_)(void*);
  void* const owner_;
};

}  // namespace na
