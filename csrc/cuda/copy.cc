#include "cuda/copy.h"

#include <algorithm>

#include "copy/copy.h"
#include "core/dtype.h"

namespace na::cuda {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;

// Elements from the first to the last of a view.
int64_t span(const na_tensor& view) {
  int64_t last = 0;
  for (int i = 0; i < view.rank; i++) last += (view.shape[i] - 1) * view.stride[i];
  return last + 1;
}

// Where element 0 of a dense view would be whose element `first` is at `data`.
void* origin(const void* data, int64_t first, int32_t dtype) {
  return reinterpret_cast<void*>(reinterpret_cast<intptr_t>(data) - first * dtype_size(dtype));
}

cudaError_t move(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream);
}

}  // namespace

Copy::Copy(const Device& device, const na_copy& copy)
    : source_(*copy.src),
      target_(*copy.dst),
      views_(source_, target_),
      workspace_(copy.workspace),
      from_(place_of(device, source_.data)),
      to_(place_of(device, target_.data)),
      from_host_(views_.elements() > 0 && from_ == Place::kPageable),
      to_host_(views_.elements() > 0 && to_ == Place::kPageable) {}

int32_t Copy::device_dtype() const { return from_host_ ? target_.dtype : source_.dtype; }

bool Copy::alike() const { return source_.dtype == target_.dtype && is_dense(source_) && is_dense(target_); }

bool Copy::through_memory() const {
  if (views_.elements() == 0) return false;
  if (pageable()) {
    return !is_dense(from_host_ ? target_ : source_);
  }
  return !alike() && (from_ == Place::kOtherDevice || to_ == Place::kOtherDevice);
}

Status Copy::check(int64_t* workspace_bytes) const {
  *workspace_bytes = 0;
  if (!through_memory()) return {};
  if (to_ == Place::kOtherDevice && (pageable() || from_ == Place::kOtherDevice || !is_dense(target_))) {
    return error(NA_ERR_OPTION, "a copy into a strided view of another device: copy within that device");
  }
  if (pageable()) {
    *workspace_bytes = piece_bytes(std::min(piece_elements(), views_.elements()));
  } else if (from_ == Place::kOtherDevice) {
    *workspace_bytes = span(source_) * dtype_size(source_.dtype);
  } else {
    *workspace_bytes = views_.elements() * dtype_size(target_.dtype);
  }
  return {};
}

cudaError_t Copy::enqueue(cudaStream_t stream) const {
  const int64_t count = views_.elements(), bytes = count * dtype_size(target_.dtype);
  if (count == 0) return cudaSuccess;
  if (alike()) return move(target_.data, source_.data, bytes, stream);
  if (from_ == Place::kOtherDevice) {
    // All that lies between the first element and the last, as it lies there.
    const cudaError_t result = move(workspace_, source_.data, span(source_) * dtype_size(source_.dtype), stream);
    if (result != cudaSuccess) return result;
    na_tensor here = source_;
    here.data = workspace_;
    return copy(StridedCopy(here, target_), 0, count, stream);
  }
  if (to_ == Place::kOtherDevice) {
    const cudaError_t result =
        copy(StridedCopy(source_, dense_view(target_, target_.dtype, workspace_)), 0, count, stream);
    return result == cudaSuccess ? move(target_.data, workspace_, bytes, stream) : result;
  }
  return copy(views_, 0, count, stream);
}

int64_t Copy::piece_elements() const { return kPieceBytes / dtype_size(device_dtype()); }

int64_t Copy::piece_bytes(int64_t elements) const { return elements * dtype_size(device_dtype()); }

void Copy::gather(int64_t first, int64_t last, void* piece) const {
  StridedCopy(source_, dense_view(target_, target_.dtype, origin(piece, first, target_.dtype))).run(first, last);
}

void Copy::scatter(int64_t first, int64_t last, const void* piece) const {
  StridedCopy(dense_view(source_, source_.dtype, origin(piece, first, source_.dtype)), target_).run(first, last);
}

cudaError_t Copy::enqueue_piece(int64_t first, int64_t last, void* piece, cudaStream_t stream) const {
  const int32_t dtype = device_dtype();
  const na_tensor& view = from_host_ ? target_ : source_;
  const int64_t bytes = piece_bytes(last - first);
  if (!through_memory()) {
    char* const at = static_cast<char*>(view.data) + first * dtype_size(dtype);
    return from_host_ ? move(at, piece, bytes, stream) : move(piece, at, bytes, stream);
  }
  // Pieces follow each other in the stream and share the workspace.
  const na_tensor dense = dense_view(view, dtype, origin(workspace_, first, dtype));
  if (from_host_) {
    const cudaError_t result = move(workspace_, piece, bytes, stream);
    return result == cudaSuccess ? copy(StridedCopy(dense, view), first, last, stream) : result;
  }
  const cudaError_t result = copy(StridedCopy(view, dense), first, last, stream);
  return result == cudaSuccess ? move(piece, workspace_, bytes, stream) : result;
}

}  // namespace na::cuda
