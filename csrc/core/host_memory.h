// What of the machine's memory this process may use.
#pragma once

#include <cstdint>
#include <string>

namespace na {

struct HostMemory {
  int64_t total = 0;      // the machine's, or the limit of a control group
  int64_t available = 0;  // of it now: free, or of files that can be read again
};

// Of all control groups that the process is in, the one that leaves least counts. `root` is where the system's files
// are found; only tests say so.
HostMemory host_memory(const std::string& root = "");

}  // namespace na
