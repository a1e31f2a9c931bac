// The CUDA runtime, opened at run time: the same library that cuDNN's frontend opens, so that the process has one.
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "library.h"

namespace bench {

#define BENCH_RUNTIME_FUNCTIONS(DO) \
  DO(cudaSetDevice)                 \
  DO(cudaGetErrorString)            \
  DO(cudaDeviceGetAttribute)        \
  DO(cudaMemcpyAsync)               \
  DO(cudaStreamCreateWithFlags)     \
  DO(cudaStreamSynchronize)         \
  DO(cudaStreamBeginCapture)        \
  DO(cudaStreamEndCapture)          \
  DO(cudaGraphInstantiate)          \
  DO(cudaGraphLaunch)               \
  DO(cudaGraphDestroy)              \
  DO(cudaGraphExecDestroy)          \
  DO(cudaEventCreate)               \
  DO(cudaEventRecord)               \
  DO(cudaEventElapsedTime)          \
  DO(cudaEventDestroy)

class Runtime {
 public:
  // Makes a stream of the first device too, which waits for no other.
  Status open(const char* path);
  bool is_open() const { return stream_ != nullptr; }

  const Library& library() const { return library_; }
  cudaStream_t stream() const { return stream_; }
  Status status(cudaError_t error) const { return error == cudaSuccess ? Status() : cudaGetErrorString(error); }

#define BENCH_DECLARE(NAME) decltype(&::NAME) NAME = nullptr;
  BENCH_RUNTIME_FUNCTIONS(BENCH_DECLARE)
#undef BENCH_DECLARE

 private:
  Library library_;
  cudaStream_t stream_ = nullptr;
};

// Points in the runtime's stream and the time between neighbours.
class Events {
 public:
  explicit Events(const Runtime& runtime) : runtime_(runtime) {}
  ~Events();
  Events(const Events&) = delete;

  Status record();
  // Milliseconds from each event to the next, once all have been reached.
  Status elapsed(std::vector<double>* milliseconds);

 private:
  const Runtime& runtime_;
  std::vector<cudaEvent_t> events_;
};

}  // namespace bench
