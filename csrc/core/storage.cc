#include "core/storage.h"

#include <cstring>

namespace na {

Status Storage::allocate(Device* device, int64_t bytes, bool pinned, bool zeroed, Ref<Storage>* storage) {
  const Device* pinned_by = pinned ? pinning_device() : nullptr;
  void* data = nullptr;
  NA_TRY((pinned_by ? pinned_by : device)->allocate(bytes, pinned_by != nullptr, zeroed && !pinned_by, &data));
  if (zeroed && pinned_by && bytes > 0) memset(data, 0, static_cast<size_t>(bytes));  // a GPU's backend zeroes nothing
  device->count(1, bytes);
  *storage = Ref<Storage>(new Storage(device, data, bytes, pinned_by, nullptr, nullptr));
  return {};
}

Ref<Storage> Storage::adopt(Device* device, void* data, int64_t bytes, void (*released)(void*), void* owner) {
  device->count(1, 0);
  return Ref<Storage>(new Storage(device, data, bytes, nullptr, released, owner));
}

void Storage::handle_gone() {
  if (--handles_ > 0 || !exposed || !counted_) return;
  device->count(-1, -counted_bytes());
  counted_ = false;
}

void Storage::fail(Ref<Failure> failure) {
  any_failed_.store(true, std::memory_order_relaxed);
  Failure* none = nullptr;
  if (failure_.compare_exchange_strong(none, failure.get(), std::memory_order_acq_rel)) failure->retain();
}

Storage::~Storage() {
  if (failure()) failure()->release();
  if (counted_) device->count(-1, -counted_bytes());
  if (released_) {
    released_(owner_);
  } else {
    const Device* source = pinned_by ? pinned_by : device;
    source->backend->memory_free(source->index, bytes, pinned_by != nullptr, data);
  }
}

}  // namespace na
