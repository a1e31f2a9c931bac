// Freed blocks of memory, kept for reuse by size class. Backends put their own allocator under it.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

namespace na {

constexpr int64_t kBlockAlignment = 64;

// Four classes to each doubling: at most a quarter is wasted.
int64_t size_class(int64_t bytes);

// Safe for threads. Sizes are those of size classes.
class Pool {
 public:
  // A block of exactly that size, or nullptr.
  void* take(int64_t size);

  // False when more than `limit` bytes would be kept: then the caller keeps the block.
  bool put(void* block, int64_t size, int64_t limit = INT64_MAX);

  int64_t bytes() const;

  // Gives up everything: calls give_back(block, size) for each.
  template <class GiveBack>
  void empty(const GiveBack& give_back) {
    std::map<int64_t, std::vector<void*>> blocks;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      blocks.swap(free_);
      bytes_ = 0;
    }
    for (const auto& [size, list] : blocks) {
      for (void* block : list) give_back(block, size);
    }
  }

 private:
  mutable std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> free_;
  int64_t bytes_ = 0;
};

}  // namespace na
