// Memory of a device, or host memory that devices can reach (pinned), kept for reuse when it is freed.
//
// Memory is freed when every operation that names it is done, whichever streams those were on, so a freed block can be
// handed out at once and needs no stream to order it. cudaMallocAsync, which orders reuse within one stream, would have
// to be told of all the others; and cudaFree waits for the whole device, which must not happen between two calls.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "core/status.h"

namespace na::cuda {

class Pool {
 public:
  Pool(int ordinal, bool pinned) : ordinal_(ordinal), pinned_(pinned) {}
  void limit(int64_t bytes) { limit_ = bytes; }

  Status allocate(int64_t bytes, void** data);
  void release(void* data, int64_t bytes);
  int64_t pooled();

 private:
  cudaError_t fresh(int64_t size, void** data) const;
  void give_back(void* data) const;
  void clear();

  const int ordinal_;
  const bool pinned_;
  int64_t limit_ = int64_t{1} << 30;

  std::mutex mutex_;                            // guards what follows
  std::map<int64_t, std::vector<void*>> free_;  // by size class
  int64_t pooled_ = 0;
};

}  // namespace na::cuda
