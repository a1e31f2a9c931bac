// Copies between a device and host memory that it cannot reach by itself: a thread carries them through pinned memory,
// piece by piece, and does there what strides and element types ask for.
#pragma once

#include "cuda/device.h"

namespace na::cuda {

// Whose memory an address is.
struct Place {
  Device* device = nullptr;  // nullptr: the host's
  bool reachable = true;     // by devices: their own and pinned memory
};
Place place_of(const void* data);

int64_t bytes_of(const na_tensor& tensor);
bool contiguous(const na_tensor& tensor);
// Whether a copy is one of bytes, in their order.
bool same_layout(const na_tensor& src, const na_tensor& dst);

// Two pieces of pinned memory, of which one is filled or emptied while the other is under way. Used by one thread.
class Staging {
 public:
  explicit Staging(Device& device) : device_(device) {}
  ~Staging();

  // Enqueues the whole copy and returns when the host's side is done: read, or written. Ends early when *cancelled.
  Status carry(const na_copy& copy, const int32_t* cancelled, cudaStream_t stream);

 private:
  Status prepare();
  Status upload(const na_copy& copy, const int32_t* cancelled, cudaStream_t stream);
  Status download(const na_copy& copy, const int32_t* cancelled, cudaStream_t stream);

  Device& device_;
  void* piece_[2] = {};
  cudaEvent_t done_[2] = {};  // the copies of a piece
};

}  // namespace na::cuda
