#include "cuda/graph.h"

#include "cuda/operation.h"

namespace na::cuda {
namespace {

Status capture(Device& device, const na_operation* const* operations, int32_t count, cudaStream_t stream,
               cudaGraph_t* graph) {
  // Other threads go on making whatever calls they like.
  cudaError_t status = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (status != cudaSuccess) return cuda_error(status, "capture");
  const char* during = "capture";
  for (int32_t i = 0; i < count && status == cudaSuccess; i++) {
    during = kind_name(operations[i]->kind);
    status = enqueue(device, *operations[i], stream);
  }
  const cudaError_t ended = cudaStreamEndCapture(stream, graph);
  if (status == cudaSuccess) status = ended;
  return status == cudaSuccess ? Status{} : cuda_error(status, during);
}

}  // namespace

Status create_graph(Device& device, const na_operation* const* operations, int32_t count, na_graph** result) {
  NA_TRY(device.status());
  for (int32_t i = 0; i < count; i++) {
    if (operations[i]->kind == NA_OP_COPY && needs_host(*operations[i])) {
      return error(NA_ERR_OPTION,
                   "capture: operation %d copies to or from ordinary host memory, which a graph cannot; make that "
                   "tensor with Tensor.empty(shape, { dtype, pinned: true }), contiguous and of the same dtype",
                   i);
    }
  }
  cudaStream_t stream;
  cudaError_t status = device.select();
  if (status == cudaSuccess) status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (status != cudaSuccess) return cuda_error(status, "a stream");
  cudaGraph_t graph = nullptr;
  Status made = capture(device, operations, count, stream, &graph);
  if (made.ok()) {
    cudaGraphExec_t exec;
    status = cudaGraphInstantiate(&exec, graph, 0);
    if (status == cudaSuccess) {
      *result = new na_graph{exec};
    } else {
      made = cuda_error(status, "instantiating a graph");
    }
  }
  if (graph) cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return made;
}

void destroy_graph(na_graph* graph) {
  cudaGraphExecDestroy(graph->exec);
  delete graph;
}

}  // namespace na::cuda
