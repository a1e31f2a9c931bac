#include "cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "core/host_memory.h"
#include "core/pool.h"

namespace na::cpu {
namespace {

constexpr int64_t kMapped = int64_t{1} << 21;  // from here on blocks are mapped, aligned to huge pages
constexpr int64_t kPoolLimit = int64_t{1} << 28;

Pool& pool() {
  static Pool* const instance = new Pool;  // threads may outlive static destruction
  return *instance;
}

std::atomic<int64_t> used{0};  // by blocks that are not in the pool

void* fresh(int64_t size) {
  if (size < kMapped) return aligned_alloc(kBlockAlignment, static_cast<size_t>(size));
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

}  // namespace

int64_t physical_memory() {
  static const int64_t limit = host_memory().total;
  return limit;
}

void* allocate(int64_t bytes, bool zeroed) {
  if (bytes > physical_memory()) return nullptr;
  const int64_t size = size_class(bytes);
  const int64_t now = used.fetch_add(size) + size;
  void* data = pool().take(size);
  const bool reused = data != nullptr;
  // More than there is, the system would promise and kill the process later.
  if (!reused && now <= physical_memory()) {
    data = fresh(size);
    if (!data) {
      pool().empty(give_back);
      data = fresh(size);
    }
  }
  if (!data) {
    used -= size;
    return nullptr;
  }
  const bool clean = !reused && size >= kMapped;  // fresh mappings are zero
  if (zeroed && !clean) memset(data, 0, static_cast<size_t>(size));
  return data;
}

void release(void* data, int64_t bytes) {
  const int64_t size = size_class(bytes);
  used -= size;
  if (!pool().put(data, size, kPoolLimit)) give_back(data, size);
}

int64_t pooled_bytes() { return pool().bytes(); }

}  // namespace na::cpu
