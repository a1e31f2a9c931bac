#include "memory.h"

#include <mutex>

namespace ptx {

GlobalMemory& global_memory() {
  static GlobalMemory memory;
  return memory;
}

void GlobalMemory::add(const void* data, uint64_t bytes, bool writable) {
  const auto address = reinterpret_cast<uint64_t>(data);
  const std::unique_lock<std::shared_mutex> lock(mutex_);
  allocations_[address] = {address, bytes, writable};
}

void GlobalMemory::remove(const void* data) {
  const std::unique_lock<std::shared_mutex> lock(mutex_);
  allocations_.erase(reinterpret_cast<uint64_t>(data));
}

std::optional<GlobalMemory::Allocation> GlobalMemory::find(uint64_t address, uint64_t bytes) const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  auto after = allocations_.upper_bound(address);
  if (after == allocations_.begin()) return std::nullopt;
  const Allocation& allocation = (--after)->second;
  const uint64_t offset = address - allocation.address;
  if (offset > allocation.bytes || bytes > allocation.bytes - offset) return std::nullopt;
  return allocation;
}

std::string GlobalMemory::whereabouts(uint64_t address, uint64_t bytes) const {
  const std::shared_lock<std::shared_mutex> lock(mutex_);
  constexpr uint64_t kNear = 1 << 20;
  const auto after = allocations_.upper_bound(address);
  if (after != allocations_.begin()) {
    const Allocation& before = std::prev(after)->second;
    const uint64_t end = before.address + before.bytes;
    if (address + bytes - end < kNear) {
      return std::to_string(address + bytes - end) + " bytes behind the end of an allocation of " +
             std::to_string(before.bytes) + " bytes";
    }
  }
  if (after != allocations_.end() && after->first - address < kNear) {
    return std::to_string(after->first - address) + " bytes before an allocation of " +
           std::to_string(after->second.bytes) + " bytes";
  }
  return "far from every allocation";
}

}  // namespace ptx
