#include "runtime.h"

namespace bench {

Status Runtime::open(const char* path) {
  if (Status status = library_.open(path); !status.empty()) return status;
#define BENCH_FIND(NAME) \
  if (Status status = library_.find(#NAME, NAME); !status.empty()) return status;
  BENCH_RUNTIME_FUNCTIONS(BENCH_FIND)
#undef BENCH_FIND
  if (Status status = this->status(cudaSetDevice(0)); !status.empty()) return status;
  return status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

Events::~Events() {
  for (cudaEvent_t event : events_) runtime_.cudaEventDestroy(event);
}

Status Events::record() {
  cudaEvent_t event = nullptr;
  if (Status status = runtime_.status(runtime_.cudaEventCreate(&event)); !status.empty()) return status;
  events_.push_back(event);
  return runtime_.status(runtime_.cudaEventRecord(event, runtime_.stream()));
}

Status Events::elapsed(std::vector<double>* milliseconds) {
  if (Status status = runtime_.status(runtime_.cudaStreamSynchronize(runtime_.stream())); !status.empty())
    return status;
  for (size_t i = 1; i < events_.size(); i++) {
    float time = 0;
    Status status = runtime_.status(runtime_.cudaEventElapsedTime(&time, events_[i - 1], events_[i]));
    if (!status.empty()) return status;
    milliseconds->push_back(time);
  }
  return {};
}

}  // namespace bench
