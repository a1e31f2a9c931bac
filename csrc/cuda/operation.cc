#include "cuda/operation.h"

#include "copy/copy.h"
#include "core/dtype.h"
#include "cuda/attention.h"
#include "cuda/graph.h"
#include "cuda/transfer.h"
#include "merge/merge.h"

namespace na::cuda {
namespace {

Status check_copy(const na_copy& copy, int64_t* workspace_bytes) {
  const Place from = place_of(copy.src->data), to = place_of(copy.dst->data);
  const bool plain = same_layout(*copy.src, *copy.dst);
  if (from.device && to.device && from.device != to.device && !plain) {
    return error(
        NA_ERR_DEVICE,
        "a copy between two GPUs must be contiguous and keep its dtype; convert it with to() on its own device "
        "first");
  }
  // What the host takes or gives is contiguous: on the device's side there is a place where it is so.
  if (!from.device && !contiguous(*copy.dst)) *workspace_bytes = bytes_of(*copy.dst);
  if (!to.device && !(contiguous(*copy.src) && copy.src->dtype == copy.dst->dtype)) {
    *workspace_bytes = bytes_of(*copy.dst);
  }
  return {};
}

cudaError_t enqueue_copy(const na_copy& copy, cudaStream_t stream) {
  const Place from = place_of(copy.src->data), to = place_of(copy.dst->data);
  if (!same_layout(*copy.src, *copy.dst)) return cuda::copy(*copy.src, *copy.dst, stream);
  const size_t bytes = static_cast<size_t>(bytes_of(*copy.src));
  if (from.device && to.device && from.device != to.device) {
    return cudaMemcpyPeerAsync(copy.dst->data, to.device->ordinal, copy.src->data, from.device->ordinal, bytes, stream);
  }
  return cudaMemcpyAsync(copy.dst->data, copy.src->data, bytes, cudaMemcpyDefault, stream);
}

}  // namespace

Status check(Device& device, int32_t kind, const void* args, int64_t* workspace_bytes) {
  *workspace_bytes = 0;
  NA_TRY(device.status());
  const cudaError_t selected = device.select();
  if (selected != cudaSuccess) return cuda_error(selected, "choosing the device");
  switch (kind) {
    case NA_OP_ATTENTION: return check_attention(device, *static_cast<const na_attention*>(args), workspace_bytes);
    case NA_OP_MERGE: *workspace_bytes = merge_workspace_bytes(*static_cast<const na_merge*>(args)); return {};
    case NA_OP_COPY: return check_copy(*static_cast<const na_copy*>(args), workspace_bytes);
    default: return {};
  }
}

bool needs_host(const na_operation& operation) {
  if (operation.kind != NA_OP_COPY) return false;
  const auto& copy = *static_cast<const na_copy*>(operation.args);
  if (bytes_of(*copy.src) == 0) return false;
  const Place from = place_of(copy.src->data), to = place_of(copy.dst->data);
  if (from.device && to.device) return false;
  return !same_layout(*copy.src, *copy.dst) || !from.reachable || !to.reachable;
}

cudaError_t enqueue(const Device& device, const na_operation& operation, cudaStream_t stream) {
  switch (operation.kind) {
    case NA_OP_ATTENTION: return attention(device, *static_cast<const na_attention*>(operation.args), stream);
    case NA_OP_MERGE: return merge(*static_cast<const na_merge*>(operation.args), stream);
    case NA_OP_COPY: {
      const auto& copy = *static_cast<const na_copy*>(operation.args);
      return bytes_of(*copy.src) == 0 ? cudaSuccess : enqueue_copy(copy, stream);
    }
    case NA_OP_ZERO: {
      const auto& zero = *static_cast<const na_zero*>(operation.args);
      return zero.bytes == 0 ? cudaSuccess : cudaMemsetAsync(zero.data, 0, static_cast<size_t>(zero.bytes), stream);
    }
    case NA_OP_LAUNCH: return cudaGraphLaunch(static_cast<const na_launch*>(operation.args)->graph->exec, stream);
    default: return cudaSuccess;
  }
}

const char* kind_name(int32_t kind) {
  switch (kind) {
    case NA_OP_ATTENTION: return "attention";
    case NA_OP_MERGE: return "merge";
    case NA_OP_COPY: return "a copy";
    case NA_OP_ZERO: return "zeroing";
    case NA_OP_LAUNCH: return "a graph";
    default: return "an event";
  }
}

}  // namespace na::cuda
