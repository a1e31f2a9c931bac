// Devices and the backends that offer them. Process-wide, made at first use, never destroyed: worker threads and
// other environments may still use them while one environment ends.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "core/status.h"

namespace na {

class Device {
 public:
  Device(const na_backend* backend, int32_t index, std::string name, bool host)
      : backend(backend), index(index), name(std::move(name)), host(host) {}

  // OK, or the error after which the device can do nothing more.
  Status status() const;
  Status allocate(int64_t bytes, bool pinned, bool zeroed, void** data) const;
  // Whether the backend can run an operation, and the workspace that it wants.
  Status check(int32_t kind, const void* args, int64_t* workspace_bytes) const;
  void count(int64_t tensors, int64_t held);  // what came alive (positive) or went

  const na_backend* const backend;
  const int32_t index;
  const std::string name;  // "cpu", "cuda:0"
  const bool host;         // its memory is the host's: the CPU

  // Allocations alive, the bytes of library memory they hold, and the most they ever held.
  std::atomic<int64_t> live{0}, bytes{0}, peak_bytes{0};
};

// One row of devices(): a backend's device, or the reason why the backend has none.
struct DeviceReport {
  std::string device;   // "cpu", "cuda:0"; "cuda" when unusable
  std::string backend;  // "cpu", "cuda"
  std::string reason;   // ok | no-driver | driver-too-old | no-device | unsupported-arch | library-missing |
                        // load-failed | disabled
  std::string message;  // a sentence
  na_device_info info;  // zero when unusable
};

const std::vector<DeviceReport>& device_reports();

// How the CUDA backend was looked for, see LoadedBackend.
const std::vector<std::string>& cuda_search();

// "cpu", "cuda" (the first) or "cuda:N"; ERR_DEVICE with the reason when it is not there.
Status find_device(const std::string& name, Device** device);

// Whose backend gives host memory that a GPU can copy from and to by itself; null when there is none.
Device* pinning_device();

}  // namespace na
