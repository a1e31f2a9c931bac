// What of the machine's memory this process may use.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

namespace na {

struct HostMemory {
  int64_t total = 0;      // the machine's, or the limit of a control group
  int64_t limit = 0;      // of it what can be used before a control group is slowed down
  int64_t available = 0;  // of that now: free, or of files that can be read again
};

// Of all control groups that the process is in, the one that leaves least counts. `root` is where the system's files
// are found; only tests say so.
HostMemory host_memory(const std::string& root = "");

// What of it can be pinned. Pinned memory is taken from all others until it is freed: where nothing is left the system
// does not refuse, but stands still. So it is not asked for more than that.
int64_t pinnable(const HostMemory& host);

// Says of blocks, before the system is asked for them, whether they can be pinned. From any thread.
class PinnedScale {
 public:
  explicit PinnedScale(std::string root = "") : root_(std::move(root)) {}
  // The files are read for a block of 2 MiB, and for a smaller one when those since the last time come to that.
  bool grants(int64_t size);

 private:
  const std::string root_;
  std::atomic<int64_t> unweighed_{0};
};

}  // namespace na
