// Copies between strided views of which at least one is on a device: Tensor.to() and read().
//
// What the device reaches by itself, its own memory and pinned memory of the host, is copied by cudaMemcpyAsync where
// both sides lie alike and by a kernel otherwise. Pageable memory of the host is copied in pieces through pinned ones:
// the host gathers and converts before a piece goes to the device, or converts and scatters behind one that comes from
// it. A piece is dense and has the device's dtype; where the device's view is not dense, a kernel goes between it and a
// workspace.
#pragma once

#include "core/strided.h"
#include "cuda/device.h"
#include "cuda/memory.h"

namespace na::cuda {

class Copy {
 public:
  Copy(const Device& device, const na_copy& copy);

  // Whether, and of how much memory of the device, it can be made.
  Status check(int64_t* workspace_bytes) const;

  bool pageable() const { return from_host_ || to_host_; }
  bool to_host() const { return to_host_; }

  // The whole copy, unless it is pageable.
  cudaError_t enqueue(cudaStream_t stream) const;

  // Pieces of pageable copies: elements [first, last), at most piece_elements().
  int64_t elements() const { return views_.elements(); }
  int64_t piece_elements() const;
  int64_t piece_bytes(int64_t elements) const;
  void gather(int64_t first, int64_t last, void* piece) const;
  cudaError_t enqueue_piece(int64_t first, int64_t last, void* piece, cudaStream_t stream) const;
  void scatter(int64_t first, int64_t last, const void* piece) const;

 private:
  int32_t device_dtype() const;
  bool alike() const;           // one cudaMemcpyAsync is enough
  bool through_memory() const;  // needs a workspace

  const na_tensor source_, target_;
  const StridedCopy views_;
  void* const workspace_;
  const Place from_, to_;
  const bool from_host_, to_host_;
};

}  // namespace na::cuda
