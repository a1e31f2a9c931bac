#include "../cuda/baseline.h"

#include <cutlass/version.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "kernels.h"

namespace {

int fail(const std::string& sentence, char* error, uint64_t error_size) {
  std::snprintf(error, error_size, "%s", sentence.c_str());
  return -1;
}

// The example's own tiles have as many rows.
constexpr int64_t kTile = 128;

// Why the example does not take a shape; empty if it does.
std::string refusal(const baseline_shape& s) {
  if (!s.bfloat16) return "only bfloat16 is compiled";
  if (s.heads != s.kv_heads) return "the example has no query heads that share key heads";
  if (s.queries % kTile != 0 || s.keys % kTile != 0) {
    return "the example takes multiples of " + std::to_string(kTile) + " queries and keys";
  }
  if (s.causal && s.queries != s.keys) return "the example's causal mask is for as many queries as keys";
  if (std::abs(s.scale * std::sqrt(static_cast<float>(s.head_dim)) - 1) > 1e-6f) {
    return "the example's scale is 1 / sqrt(headDim)";
  }
  if (s.batch * s.queries * s.heads * s.head_dim > std::numeric_limits<int>::max()) {
    return "the example counts elements in 32 bits";
  }
  return {};
}

std::vector<Kernel> kernels_of(int64_t head_dim, bool causal) {
  switch (head_dim) {
    case 64: return causal ? kernels<64, true>() : kernels<64, false>();
    case 128: return causal ? kernels<128, true>() : kernels<128, false>();
    case 256: return causal ? kernels<256, true>() : kernels<256, false>();
    default: return {};
  }
}

// Milliseconds of some runs after one that is not timed; infinite when it does not run.
float time_of(Kernel kernel, const Call& call, cudaStream_t stream) {
  constexpr int kRuns = 5;
  float milliseconds = std::numeric_limits<float>::infinity();
  cudaEvent_t events[2] = {};
  for (cudaEvent_t& event : events) cudaEventCreate(&event);
  bool launched = kernel(call, stream);
  cudaEventRecord(events[0], stream);
  for (int run = 0; run < kRuns && launched; run++) launched = kernel(call, stream);
  cudaEventRecord(events[1], stream);
  if (cudaStreamSynchronize(stream) == cudaSuccess && launched) {
    cudaEventElapsedTime(&milliseconds, events[0], events[1]);
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  return milliseconds;
}

}  // namespace

struct baseline_plan {
  baseline_shape shape;
  std::vector<Kernel> kernels;
  Kernel fastest;  // null before the first execution
};

int baseline_open(const char*, char* error, uint64_t error_size) {
  int major = 0, minor = 0;
  cudaError_t status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (status == cudaSuccess) status = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (status != cudaSuccess) return fail(cudaGetErrorString(status), error, error_size);
  if (major == 9 && minor == 0) return 0;
  const std::string here = std::to_string(major) + "." + std::to_string(minor);
  return fail("the example needs a GPU of compute capability 9.0; this one has " + here, error, error_size);
}

int64_t baseline_version(void) { return CUTLASS_MAJOR * 10000 + CUTLASS_MINOR * 100 + CUTLASS_PATCH; }

int baseline_plan_create(const baseline_shape* shape, baseline_plan** plan, int64_t* workspace_bytes, char* error,
                         uint64_t error_size) {
  std::string why = refusal(*shape);
  std::vector<Kernel> found;
  if (why.empty()) found = kernels_of(shape->head_dim, shape->causal);
  if (why.empty() && found.empty()) why = "headDim 64, 128 and 256 are compiled";
  if (!why.empty()) return fail(why, error, error_size);
  *plan = new baseline_plan{*shape, std::move(found), nullptr};
  *workspace_bytes = 0;
  return 0;
}

int baseline_plan_execute(baseline_plan* plan, const void* q, const void* k, const void* v, void* out, void* lse, void*,
                          void* stream, char* error, uint64_t error_size) {
  const Call call = {plan->shape, q, k, v, out, static_cast<float*>(lse)};
  const auto at = static_cast<cudaStream_t>(stream);
  if (!plan->fastest) {
    float least = std::numeric_limits<float>::infinity();
    for (Kernel kernel : plan->kernels) {
      const float time = time_of(kernel, call, at);
      if (time < least) {
        least = time;
        plan->fastest = kernel;
      }
    }
  }
  if (plan->fastest && plan->fastest(call, at)) return 0;
  return fail(std::string("the example's kernel cannot be launched: ") + cudaGetErrorString(cudaGetLastError()), error,
              error_size);
}

void baseline_plan_destroy(baseline_plan* plan) { delete plan; }
