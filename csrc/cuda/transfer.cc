#include "cuda/transfer.h"

#include "copy/copy.h"
#include "core/convert.h"
#include "core/dtype.h"

namespace na::cuda {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;

int64_t count(const na_tensor& tensor) {
  int64_t elements = 1;
  for (int32_t axis = 0; axis < tensor.rank; axis++) elements *= tensor.shape[axis];
  return elements;
}

na_tensor packed(const na_tensor& tensor, int32_t dtype, void* data) {
  na_tensor view = tensor;
  view.data = data;
  view.dtype = dtype;
  int64_t stride = 1;
  for (int32_t axis = tensor.rank - 1; axis >= 0; axis--) {
    view.stride[axis] = stride;
    stride *= tensor.shape[axis] > 0 ? tensor.shape[axis] : 1;
  }
  return view;
}

// Calls run(element, stride, first, count) for each run along the last axis of elements [first, first + count) of a
// tensor, in the order of its axes; `first` is then the run's place among them.
template <typename Run>
void each_run(const na_tensor& tensor, int64_t first, int64_t elements, const Run& run) {
  const int32_t last = tensor.rank - 1;
  if (last < 0) return run(static_cast<char*>(tensor.data), 1, 0, 1);
  const int64_t row_length = tensor.shape[last], size = dtype_size(tensor.dtype);
  for (int64_t at = first; at < first + elements;) {
    int64_t offset = at % row_length * tensor.stride[last], row = at / row_length;
    for (int32_t axis = last - 1; axis >= 0; axis--) {
      offset += row % tensor.shape[axis] * tensor.stride[axis];
      row /= tensor.shape[axis];
    }
    const int64_t left = first + elements - at, in_row = row_length - at % row_length;
    const int64_t length = left < in_row ? left : in_row;
    run(static_cast<char*>(tensor.data) + offset * size, tensor.stride[last], at - first, length);
    at += length;
  }
}

bool is_cancelled(const int32_t* cancelled) { return cancelled && __atomic_load_n(cancelled, __ATOMIC_RELAXED) != 0; }

}  // namespace

Place place_of(const void* data) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, data) != cudaSuccess) {
    cudaGetLastError();
    return {nullptr, false};
  }
  if (attributes.type == cudaMemoryTypeDevice) return {Device::of_ordinal(attributes.device), true};
  return {nullptr, attributes.type == cudaMemoryTypeHost};
}

int64_t bytes_of(const na_tensor& tensor) { return count(tensor) * dtype_size(tensor.dtype); }

bool contiguous(const na_tensor& tensor) {
  int64_t expected = 1;
  for (int32_t axis = tensor.rank - 1; axis >= 0; axis--) {
    if (tensor.shape[axis] == 1) continue;
    if (tensor.stride[axis] != expected) return false;
    expected *= tensor.shape[axis];
  }
  return true;
}

bool same_layout(const na_tensor& src, const na_tensor& dst) {
  return src.dtype == dst.dtype && contiguous(src) && contiguous(dst);
}

Staging::~Staging() {
  for (int i = 0; i < 2; i++) {
    if (piece_[i]) device_.pinned.release(piece_[i], kPieceBytes);
    if (done_[i]) cudaEventDestroy(done_[i]);
  }
}

Status Staging::prepare() {
  for (int i = 0; i < 2; i++) {
    if (!piece_[i]) NA_TRY(device_.pinned.allocate(kPieceBytes, &piece_[i]));
    if (done_[i]) continue;
    const cudaError_t made = cudaEventCreateWithFlags(&done_[i], cudaEventDisableTiming | cudaEventBlockingSync);
    if (made != cudaSuccess) return cuda_error(made, "an event");
  }
  return {};
}

Status Staging::carry(const na_copy& copy, const int32_t* cancelled, cudaStream_t stream) {
  NA_TRY(prepare());
  return place_of(copy.src->data).device ? download(copy, cancelled, stream) : upload(copy, cancelled, stream);
}

Status Staging::upload(const na_copy& copy, const int32_t* cancelled, cudaStream_t stream) {
  const na_tensor &src = *copy.src, &dst = *copy.dst;
  const bool direct = contiguous(dst);
  const int64_t size = dtype_size(dst.dtype), elements = count(dst), step = kPieceBytes / size;
  char* const to = static_cast<char*>(direct ? dst.data : copy.workspace);
  const ConvertRow convert = convert_row(src.dtype, dst.dtype);
  for (int64_t first = 0, n = 0; first < elements; first += step, n++) {
    if (is_cancelled(cancelled)) return {};
    const int64_t some = elements - first < step ? elements - first : step;
    const int i = n % 2;
    // The piece is free again when what it held before has gone.
    cudaError_t status = cudaEventSynchronize(done_[i]);
    if (status != cudaSuccess) return cuda_error(status, "a copy");
    char* const piece = static_cast<char*>(piece_[i]);
    each_run(src, first, some, [&](char* from, int64_t stride, int64_t at, int64_t length) {
      convert(from, stride, piece + at * size, 1, length);
    });
    status =
        cudaMemcpyAsync(to + first * size, piece, static_cast<size_t>(some * size), cudaMemcpyHostToDevice, stream);
    if (status == cudaSuccess) status = cudaEventRecord(done_[i], stream);
    if (status != cudaSuccess) return cuda_error(status, "a copy");
  }
  if (direct) return {};
  const cudaError_t status = cuda::copy(packed(dst, dst.dtype, to), dst, stream);
  return status == cudaSuccess ? Status{} : cuda_error(status, "a copy");
}

Status Staging::download(const na_copy& copy, const int32_t* cancelled, cudaStream_t stream) {
  const na_tensor &src = *copy.src, &dst = *copy.dst;
  const bool direct = contiguous(src) && src.dtype == dst.dtype;
  const int64_t size = dtype_size(dst.dtype), elements = count(dst), step = kPieceBytes / size;
  const char* const from = static_cast<const char*>(direct ? src.data : copy.workspace);
  if (!direct) {
    const cudaError_t status = cuda::copy(src, packed(dst, dst.dtype, copy.workspace), stream);
    if (status != cudaSuccess) return cuda_error(status, "a copy");
  }
  const ConvertRow convert = convert_row(dst.dtype, dst.dtype);
  const int64_t pieces = (elements + step - 1) / step;
  // One piece is on its way while the one before it is emptied.
  for (int64_t n = 0; n <= pieces; n++) {
    if (is_cancelled(cancelled)) return {};
    if (n < pieces) {
      const int64_t first = n * step, some = elements - first < step ? elements - first : step;
      cudaError_t status = cudaMemcpyAsync(piece_[n % 2], from + first * size, static_cast<size_t>(some * size),
                                           cudaMemcpyDeviceToHost, stream);
      if (status == cudaSuccess) status = cudaEventRecord(done_[n % 2], stream);
      if (status != cudaSuccess) return cuda_error(status, "a copy");
    }
    if (n == 0) continue;
    const int64_t first = (n - 1) * step, some = elements - first < step ? elements - first : step;
    const int i = (n - 1) % 2;
    const cudaError_t status = cudaEventSynchronize(done_[i]);
    if (status != cudaSuccess) return cuda_error(status, "a copy");
    const char* const piece = static_cast<const char*>(piece_[i]);
    each_run(dst, first, some, [&](char* to, int64_t stride, int64_t at, int64_t length) {
      convert(piece + at * size, 1, to, stride, length);
    });
  }
  return {};
}

}  // namespace na::cuda
