#include "peaks.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "../peak.h"

namespace bench {

namespace {

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Random bits as bfloat16 numbers of magnitude 1 to 2 with either sign: zeros would take less power than real data.
std::vector<uint8_t> random_bytes(int64_t count) {
  std::vector<uint8_t> bytes(count);
  uint32_t state = 1;
  for (int64_t i = 0; i < count; i++) {
    state = state * 1664525 + 1013904223;
    bytes[i] = static_cast<uint8_t>(state >> 24);
  }
  for (int64_t i = 1; i < count; i += 2) bytes[i] = (bytes[i] & 0x80) | 0x3f;
  for (int64_t i = 0; i < count; i += 2) bytes[i] |= 0x80;
  return bytes;
}

}  // namespace

Status time_copies(Backend& backend, const Runtime& runtime, int64_t bytes, int times, double* backend_seconds,
                   double* event_seconds) {
  Memory from, to;
  if (Status status = backend.allocate(bytes, &from); !status.empty()) return status;
  if (Status status = backend.allocate(bytes, &to); !status.empty()) return status;
  const std::vector<uint8_t> random = random_bytes(std::min<int64_t>(bytes, 1 << 24));
  for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(random.size())) {
    const int64_t length = std::min<int64_t>(random.size(), bytes - at);
    const Status status = backend.copy(static_cast<char*>(from.data()) + at, random.data(), length);
    if (!status.empty()) return status;
  }
  const na_tensor source = tensor(from.data(), NA_UINT8, {bytes}), target = tensor(to.data(), NA_UINT8, {bytes});
  na_copy copy = {};
  copy.src = &source;
  copy.dst = &target;
  Memory workspace;
  if (Status status = backend.admit(NA_OP_COPY, &copy, &workspace); !status.empty()) return status;
  std::vector<int64_t> clock(times + 1);
  std::vector<na_mark> marks;
  for (int64_t& time : clock) marks.push_back({&time});
  {
    Queue queue(backend);
    for (const na_mark& mark : marks) {
      queue.submit(NA_OP_COPY, &copy);
      queue.submit(NA_OP_MARK, &mark);
    }
    if (Status status = queue.wait(); !status.empty()) return status;
  }
  std::vector<double> seconds;
  for (int i = 0; i < times; i++) seconds.push_back((clock[i + 1] - clock[i]) / 1e9);
  *backend_seconds = median(seconds);

  *event_seconds = std::numeric_limits<double>::quiet_NaN();
  if (!runtime.is_open()) return {};
  Events events(runtime);
  for (int i = 0; i <= times; i++) {
    Status status = runtime.status(
        runtime.cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, runtime.stream()));
    if (status.empty()) status = events.record();
    if (!status.empty()) return status;
  }
  std::vector<double> milliseconds;
  const Status status = events.elapsed(&milliseconds);
  if (status.empty()) *event_seconds = median(milliseconds) / 1e3;
  return status;
}

Status time_products(const Runtime& runtime, const char* kernels, double* seconds, double* operations) {
  if (!runtime.is_open()) return "there is no CUDA runtime";
  // Not among the functions of every runtime: the stand-in has no libraries.
  decltype(&::cudaLibraryLoadFromFile) load = nullptr;
  decltype(&::cudaLibraryGetKernel) get = nullptr;
  decltype(&::cudaLaunchKernel) launch = nullptr;
  const Library& library = runtime.library();
  Status status = library.find("cudaLibraryLoadFromFile", load);
  if (status.empty()) status = library.find("cudaLibraryGetKernel", get);
  if (status.empty()) status = library.find("cudaLaunchKernel", launch);
  cudaLibrary_t loaded = nullptr;
  cudaKernel_t kernel = nullptr;
  int blocks = 0;
  if (status.empty()) status = runtime.status(load(&loaded, kernels, nullptr, nullptr, 0, nullptr, nullptr, 0));
  if (status.empty()) status = runtime.status(get(&kernel, loaded, PEAK_KERNEL));
  if (status.empty())
    status = runtime.status(runtime.cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, 0));
  if (!status.empty()) return status;
  int steps = PEAK_STEPS;
  float* nowhere = nullptr;
  void* arguments[] = {&steps, &nowhere};
  Events events(runtime);
  constexpr int kTimes = 12;
  for (int i = 0; i <= kTimes; i++) {
    status = runtime.status(launch(reinterpret_cast<const void*>(kernel), dim3(blocks), dim3(PEAK_THREADS), arguments,
                                   0, runtime.stream()));
    if (status.empty()) status = events.record();
    if (!status.empty()) return status;
  }
  std::vector<double> milliseconds;
  status = events.elapsed(&milliseconds);
  if (!status.empty()) return status;
  *seconds = median(milliseconds) / 1e3;
  *operations = static_cast<double>(PEAK_OPERATIONS) * steps * blocks;
  return {};
}

}  // namespace bench
