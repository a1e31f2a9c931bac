// The address spaces and their checks. Every access goes through here; a bad one is a Fault with the PTX line.
//
// Global memory is the host's: device pointers are host addresses inside registered allocations. Shared and local
// memory lie in windows of the generic address space that no host address reaches.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>

namespace ptx {

class Warp;
struct Instruction;

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Space { kGeneric, kGlobal, kConst, kShared, kLocal, kParam };
enum class Access { kRead, kWrite, kReadWrite };
// The proxy through which shared memory is accessed: bulk copies and wgmma use the asynchronous one.
enum class Proxy { kGeneric, kAsync };

constexpr uint64_t kSharedWindow = 0x0700'0000'0000'0000, kLocalWindow = 0x0600'0000'0000'0000,
                   kParamWindow = 0x0500'0000'0000'0000, kWindowMask = 0xff00'0000'0000'0000;

// Shared memory starts here, as on a device of capability 9.0, so that address 0 is never valid.
constexpr uint64_t kSharedBase = 1024;

// The allocations that device code may touch. One for the process: runtime and tests register what they hand out, from
// any thread, also while a kernel runs.
class GlobalMemory {
 public:
  struct Allocation {
    uint64_t address, bytes;
    bool writable;
  };

  void add(const void* data, uint64_t bytes, bool writable = true);
  void remove(const void* data);
  // The allocation that holds [address, address + bytes).
  std::optional<Allocation> find(uint64_t address, uint64_t bytes) const;
  // Where an address lies that find() did not find: "12 bytes behind the end of an allocation of 64 bytes".
  std::string whereabouts(uint64_t address, uint64_t bytes) const;

 private:
  mutable std::shared_mutex mutex_;
  std::map<uint64_t, Allocation> allocations_;  // by address
};

GlobalMemory& global_memory();

}  // namespace ptx
