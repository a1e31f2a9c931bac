#include "core/storage.h"

namespace na {

Status Storage::allocate(Device* device, int64_t bytes, bool pinned, bool zeroed, Ref<Storage>* storage) {
  void* data = nullptr;
  NA_TRY(device->allocate(bytes, pinned, zeroed, &data));
  device->count(1, bytes);
  *storage = Ref<Storage>(new Storage(device, data, bytes, pinned, nullptr, nullptr));
  return {};
}

Ref<Storage> Storage::adopt(Device* device, void* data, int64_t bytes, void (*released)(void*), void* owner) {
  device->count(1, 0);
  return Ref<Storage>(new Storage(device, data, bytes, false, released, owner));
}

void Storage::handle_gone() {
  if (--handles_ > 0 || !exposed || !counted_) return;
  device->count(-1, -bytes);
  counted_ = false;
}

Storage::~Storage() {
  if (counted_) device->count(-1, released_ ? 0 : -bytes);
  if (released_) {
    released_(owner_);
  } else {
    device->backend->memory_free(device->index, bytes, pinned, data);
  }
}

}  // namespace na
