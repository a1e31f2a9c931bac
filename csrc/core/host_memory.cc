#include "core/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace na {
namespace {

constexpr int64_t kOthersShare = 32;          // of the limit: what is not pinned
constexpr int64_t kLarge = int64_t{1} << 21;  // of blocks that are to be pinned

// Files of a control group, of either version of these. What it uses counts files that were read, which are given up
// when memory is asked for: a process that has read a model would seem to have used it up.
// At `high` a group is slowed down until memory has been given back, which pinned memory never is.
struct GroupFiles {
  const char *folder, *limit, *high, *used, *inactive, *active;
};
constexpr GroupFiles kFirst = {"/sys/fs/cgroup/memory",  "/memory.limit_in_bytes", nullptr,
                               "/memory.usage_in_bytes", "total_inactive_file",    "total_active_file"};
constexpr GroupFiles kSecond = {"/sys/fs/cgroup",  "/memory.max",   "/memory.high",
                                "/memory.current", "inactive_file", "active_file"};

// The number that a file begins with; -1 where it does not, as with "max", or is missing.
int64_t number_in(const std::string& file) {
  std::ifstream in(file);
  int64_t number = 0;
  return in >> number ? number : -1;
}

// The number behind a word of a file, or -1.
int64_t number_after(const std::string& name, const std::string& file) {
  std::ifstream in(file);
  int64_t number = 0;
  for (std::string word; in >> word;) {
    if (word == name) return in >> number ? number : -1;
  }
  return -1;
}

// The limits of a group and of all that it is part of. A container may see its own group as the first.
void heed_groups(const std::string& root, const GroupFiles& files, std::string group, HostMemory* memory) {
  for (;; group.erase(group.rfind('/'))) {
    const std::string folder = root + files.folder + group, stat = folder + "/memory.stat";
    int64_t limit = number_in(folder + files.limit);
    if (limit >= 0) memory->total = std::min(memory->total, limit);
    const int64_t high = files.high ? number_in(folder + files.high) : -1;
    if (high >= 0 && (limit < 0 || high < limit)) limit = high;
    if (limit >= 0) {
      const int64_t cached = std::max<int64_t>(0, number_after(files.inactive, stat)) +
                             std::max<int64_t>(0, number_after(files.active, stat));
      const int64_t used = std::max<int64_t>(0, number_in(folder + files.used) - cached);
      memory->limit = std::min(memory->limit, limit);
      memory->available = std::min(memory->available, std::max<int64_t>(0, limit - used));
    }
    if (group.empty()) return;
  }
}

}  // namespace

HostMemory host_memory(const std::string& root) {
  HostMemory memory;
  const int64_t total = number_after("MemTotal:", root + "/proc/meminfo");
  const int64_t available = number_after("MemAvailable:", root + "/proc/meminfo");
  memory.total = total >= 0 ? total * 1024 : static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  memory.limit = memory.total;
  memory.available = available >= 0 ? available * 1024 : memory.total;
  // Lines are number:controllers:group; those of the second version name no controllers.
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group.empty() || group.front() != '/') continue;
    if (group == "/") group.clear();
    if (controllers == ",,") heed_groups(root, kSecond, std::move(group), &memory);
    if (controllers.find(",memory,") != std::string::npos) heed_groups(root, kFirst, std::move(group), &memory);
  }
  return memory;
}

int64_t pinnable(const HostMemory& host) { return std::max<int64_t>(0, host.available - host.limit / kOthersShare); }

bool PinnedScale::grants(int64_t size) {
  if (size < kLarge - unweighed_.load()) {
    unweighed_ += size;
    return true;
  }
  if (size > pinnable(host_memory(root_))) return false;
  unweighed_ = 0;
  return true;
}

}  // namespace na
