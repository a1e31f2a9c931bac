#include "cuda/operation.h"

#include "cuda/attention.h"
#include "cuda/copy.h"
#include "cuda/select.h"
#include "kv/kv.h"
#include "merge/merge.h"
#include "select/select.h"

namespace na::cuda {

const char* operation_name(int32_t kind) {
  switch (kind) {
    case NA_OP_ATTENTION: return "attention";
    case NA_OP_MERGE: return "merge";
    case NA_OP_COPY: return "copy";
    case NA_OP_MARK: return "event";
    case NA_OP_ZERO: return "zeros";
    case NA_OP_APPEND: return "append";
    case NA_OP_ROTATE: return "rotary embedding";
    case NA_OP_PUT: return "list of pages";
    case NA_OP_COPY_ROWS: return "copy of rows";
    case NA_OP_POOL: return "pooling of blocks";
    case NA_OP_SELECT: return "selector";
    default: return "graph launch";
  }
}

Status check_operation(Device& device, int32_t kind, const void* args, int64_t* workspace_bytes) {
  *workspace_bytes = 0;
  NA_TRY(device.status());
  switch (kind) {
    case NA_OP_ATTENTION: return check_attention(device, *static_cast<const na_attention*>(args), workspace_bytes);
    case NA_OP_MERGE: *workspace_bytes = merge_workspace(*static_cast<const na_merge*>(args)); return {};
    case NA_OP_COPY: return Copy(device, *static_cast<const na_copy*>(args)).check(workspace_bytes);
    case NA_OP_REFLECT:
    case NA_OP_AVERAGE:
    case NA_OP_RETRIEVE:
    case NA_OP_LINK: return error(NA_ERR_OPTION, "indexes of caches do not run on CUDA yet: use device 'cpu'");
    case NA_OP_BUILD:
    case NA_OP_INSPECT:
      return error(NA_ERR_OPTION,
                   "this is done with sparse plans by the CPU: do so there, and move them with to('cuda')");
    case NA_OP_SELECT: return check_select(*static_cast<const na_select*>(args), workspace_bytes);
    default: return {};
  }
}

Status enqueue(Device& device, const na_operation& operation, cudaStream_t stream) {
  cudaError_t result = cudaErrorInvalidValue;
  switch (operation.kind) {
    case NA_OP_ATTENTION: result = attention(device, *static_cast<const na_attention*>(operation.args), stream); break;
    case NA_OP_MERGE: result = merge(*static_cast<const na_merge*>(operation.args), stream); break;
    case NA_OP_COPY: result = Copy(device, *static_cast<const na_copy*>(operation.args)).enqueue(stream); break;
    case NA_OP_APPEND: result = append(*static_cast<const na_append*>(operation.args), stream); break;
    case NA_OP_ROTATE: result = rotate(*static_cast<const na_rotate*>(operation.args), stream); break;
    case NA_OP_PUT: result = put(*static_cast<const na_put*>(operation.args), stream); break;
    case NA_OP_COPY_ROWS: result = copy_rows(*static_cast<const na_copy_rows*>(operation.args), stream); break;
    case NA_OP_POOL: result = pool(*static_cast<const na_pool*>(operation.args), stream); break;
    case NA_OP_SELECT: result = select(*static_cast<const na_select*>(operation.args), stream); break;
    case NA_OP_ZERO: {
      const auto& zero = *static_cast<const na_zero*>(operation.args);
      result = zero.bytes ? cudaMemsetAsync(zero.data, 0, static_cast<size_t>(zero.bytes), stream) : cudaSuccess;
      break;
    }
    case NA_OP_LAUNCH:
      result = cudaGraphLaunch(static_cast<const na_launch*>(operation.args)->graph->executable, stream);
      break;
  }
  return device.check(result, operation_name(operation.kind));
}

int64_t launches(const Device& device, const na_operation& operation) {
  switch (operation.kind) {
    case NA_OP_ATTENTION: return attention_launches(device, *static_cast<const na_attention*>(operation.args));
    case NA_OP_MERGE: return merge_launches(*static_cast<const na_merge*>(operation.args));
    case NA_OP_COPY: return static_cast<const na_copy*>(operation.args)->workspace ? 2 : 1;
    case NA_OP_APPEND: return append_launches(*static_cast<const na_append*>(operation.args));
    case NA_OP_ROTATE: return rotate_launches(*static_cast<const na_rotate*>(operation.args));
    case NA_OP_PUT: return put_launches(*static_cast<const na_put*>(operation.args));
    case NA_OP_COPY_ROWS: return copy_rows_launches(*static_cast<const na_copy_rows*>(operation.args));
    case NA_OP_POOL: return pool_launches(*static_cast<const na_pool*>(operation.args));
    case NA_OP_SELECT: return select_launches(*static_cast<const na_select*>(operation.args));
    case NA_OP_LAUNCH: return static_cast<const na_launch*>(operation.args)->graph->launches;
    case NA_OP_MARK: return 0;
    default: return 1;
  }
}

namespace {

Status capture(Device& device, const na_operation* const* operations, int32_t count, cudaStream_t stream,
               cudaGraphExec_t* executable) {
  // Relaxed: what other threads do meanwhile, and memory that a first launch may need, is none of the capture's
  // business.
  NA_TRY(device.check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "beginning a capture"));
  Status status;
  for (int32_t i = 0; i < count && status.ok(); i++) status = enqueue(device, *operations[i], stream);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  if (status.ok()) status = device.check(ended, "ending a capture");
  if (status.ok()) status = device.check(cudaGraphInstantiate(executable, graph, 0), "making a graph");
  if (graph) cudaGraphDestroy(graph);
  return status;
}

}  // namespace

Status create_graph(Device& device, const na_operation* const* operations, int32_t count, na_graph** graph) {
  NA_TRY(device.status());
  NA_TRY(device.check(device.use(), "choosing the device"));
  for (int32_t i = 0; i < count; i++) {
    const int32_t kind = operations[i]->kind;
    if (kind == NA_OP_MARK || kind == NA_OP_LAUNCH) {
      return error(NA_ERR_OPTION, "%s cannot be captured", operation_name(kind));
    }
    if (kind == NA_OP_COPY && Copy(device, *static_cast<const na_copy*>(operations[i]->args)).pageable()) {
      return error(NA_ERR_OPTION, "copies of pageable memory cannot be captured; use pinned memory of the host");
    }
  }
  cudaStream_t stream = nullptr;
  NA_TRY(device.check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
  cudaGraphExec_t executable = nullptr;
  const Status status = capture(device, operations, count, stream, &executable);
  cudaStreamDestroy(stream);
  if (!status.ok()) return status;
  *graph = new na_graph{&device, executable, 0};
  for (int32_t i = 0; i < count; i++) (*graph)->launches += launches(device, *operations[i]);
  return {};
}

}  // namespace na::cuda
