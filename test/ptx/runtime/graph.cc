// Graphs: the work of a capture, in the order in which it was captured, which is one of those that its dependencies
// allow.
#include <algorithm>

#include "error.h"
#include "stream.h"

using namespace standin;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream) return finish(cudaErrorInvalidResourceHandle);
  if (handle == nullptr || handle == cudaStreamLegacy) return finish(cudaErrorStreamCaptureUnsupported);
  if (stream->capture) return finish(cudaErrorIllegalState);
  stream->capture = std::make_shared<CUgraph_st>();
  stream->began_capture = true;
  return finish(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream || !graph) return finish(cudaErrorInvalidValue);
  if (!stream->capture || !stream->began_capture) return finish(cudaErrorIllegalState);
  *graph = new CUgraph_st{std::move(stream->capture->work)};
  stream->capture = nullptr;
  stream->began_capture = false;
  return finish(cudaSuccess);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  static thread_local cudaStreamCaptureMode kept = cudaStreamCaptureModeGlobal;
  if (!mode) return finish(cudaErrorInvalidValue);
  std::swap(*mode, kept);
  return finish(cudaSuccess);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  CUstream_st* stream = find_stream(handle);
  if (!stream || !status) return finish(cudaErrorInvalidValue);
  *status = stream->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return finish(cudaSuccess);
}

// Memory of a graph of its own is not modelled, so freeing it at a launch is nothing to do.
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  STANDIN_ALIVE();
  constexpr unsigned long long kKnown = cudaGraphInstantiateFlagAutoFreeOnLaunch | cudaGraphInstantiateFlagUpload |
                                        cudaGraphInstantiateFlagUseNodePriority;
  if (!executable || !graph || (flags & ~kKnown) != 0) return finish(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{graph->work};
  return finish(cudaSuccess);
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(executable, graph, flags);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t handle) {
  return finish(executable && find_stream(handle) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  STANDIN_ALIVE();
  CUstream_st* stream = find_stream(handle);
  if (!stream || !executable) return finish(cudaErrorInvalidValue);
  for (const Work& work : executable->work) enqueue(*stream, work);
  return finish(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return finish(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;  // launches under way hold copies
  return finish(cudaSuccess);
}

}  // extern "C"
