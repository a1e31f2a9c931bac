#include "core/pool.h"

namespace na {

int64_t size_class(int64_t bytes) {
  int64_t step = kBlockAlignment;
  while (step * 8 < bytes) step *= 2;
  return bytes <= kBlockAlignment ? kBlockAlignment : (bytes + step - 1) / step * step;
}

void* Pool::take(int64_t size) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = free_.find(size);
  if (found == free_.end() || found->second.empty()) return nullptr;
  void* block = found->second.back();
  found->second.pop_back();
  bytes_ -= size;
  return block;
}

bool Pool::put(void* block, int64_t size, int64_t limit) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (bytes_ + size > limit) return false;
  free_[size].push_back(block);
  bytes_ += size;
  return true;
}

int64_t Pool::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return bytes_;
}

}  // namespace na
