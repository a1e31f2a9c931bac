#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <vector>

#include "core/size_class.h"

namespace na::cpu {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kMapped = int64_t{1} << 21;  // from here on blocks are mapped, aligned to huge pages
constexpr int64_t kPoolLimit = int64_t{1} << 28;

struct Pool {
  std::mutex mutex;
  std::map<int64_t, std::vector<void*>> free;  // by size class
  int64_t pooled = 0;
  int64_t used = 0;
};

Pool& pool() {
  static Pool* const instance = new Pool;  // threads may outlive static destruction
  return *instance;
}

void* fresh(int64_t size) {
  if (size < kMapped) return aligned_alloc(kAlignment, static_cast<size_t>(size));
  // Ask for more than needed and give back what lies before and behind the aligned block.
  const size_t wanted = static_cast<size_t>(size), slack = static_cast<size_t>(kMapped);
  void* mapped = mmap(nullptr, wanted + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  const size_t before = (slack - reinterpret_cast<uintptr_t>(begin) % slack) % slack;
  if (before) munmap(begin, before);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t kept = (wanted + page - 1) / page * page;
  if (slack > before + (kept - wanted)) munmap(begin + before + kept, slack - before - (kept - wanted));
#ifdef MADV_HUGEPAGE
  madvise(begin + before, kept, MADV_HUGEPAGE);
#endif
  return begin + before;
}

void give_back(void* data, int64_t size) {
  if (size < kMapped) {
    free(data);
  } else {
    munmap(data, static_cast<size_t>(size));
  }
}

void empty_pool() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  for (const auto& [size, blocks] : p.free) {
    for (void* block : blocks) give_back(block, size);
  }
  p.free.clear();
  p.pooled = 0;
}

}  // namespace

int64_t physical_memory() {
  static const int64_t limit = [] {
    int64_t bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    std::ifstream group("/sys/fs/cgroup/memory.max");  // "max" does not parse as a number
    int64_t group_bytes = 0;
    if (group >> group_bytes && group_bytes > 0 && group_bytes < bytes) bytes = group_bytes;
    return bytes;
  }();
  return limit;
}

void* allocate(int64_t bytes, bool zeroed) {
  if (bytes > physical_memory()) return nullptr;
  const int64_t size = size_class(bytes, kAlignment);
  Pool& p = pool();
  void* data = nullptr;
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    const auto found = p.free.find(size);
    if (found != p.free.end() && !found->second.empty()) {
      data = found->second.back();
      found->second.pop_back();
      p.pooled -= size;
    } else if (p.used + size > physical_memory()) {
      return nullptr;  // the system would promise it and kill the process later
    }
    p.used += size;
  }
  const bool reused = data != nullptr;
  if (!reused) data = fresh(size);
  if (!data) {
    empty_pool();
    data = fresh(size);
  }
  if (!data) {
    std::lock_guard<std::mutex> lock(p.mutex);
    p.used -= size;
    return nullptr;
  }
  const bool clean = !reused && size >= kMapped;  // fresh mappings are zero
  if (zeroed && !clean) memset(data, 0, static_cast<size_t>(size));
  return data;
}

void release(void* data, int64_t bytes) {
  const int64_t size = size_class(bytes, kAlignment);
  Pool& p = pool();
  {
    std::lock_guard<std::mutex> lock(p.mutex);
    p.used -= size;
    if (p.pooled + size <= kPoolLimit) {
      p.free[size].push_back(data);
      p.pooled += size;
      return;
    }
  }
  give_back(data, size);
}

int64_t pooled_bytes() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  return p.pooled;
}

}  // namespace na::cpu
