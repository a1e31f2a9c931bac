// Numbers that the host knows become elements of a tensor. They travel as arguments of kernels, which take no memory of
// the host that would have to be kept, or waited for: as runs, since the pages of a sequence mostly lie evenly apart,
// and any two numbers are a run.
#include "arch/enqueue.h"
#include "core/ceil_div.h"
#include "kv/kv.h"

namespace na::cuda {

constexpr int kPutThreads = 128, kMostRuns = 102;  // arguments have 4 KiB

// Number i of a run is value + i * value_step, at place + i * place_step.
struct PutRun {
  int64_t place, place_step, value, value_step, count;
};

struct PutArguments {
  int64_t* to;
  PutRun runs[kMostRuns];
};
static_assert(sizeof(PutArguments) <= 4096);

// A block has a run.
__global__ void __launch_bounds__(kPutThreads) put_kernel(const __grid_constant__ PutArguments a) {
  const PutRun run = a.runs[blockIdx.x];
  for (int64_t i = threadIdx.x; i < run.count; i += kPutThreads) {
    a.to[run.place + i * run.place_step] = run.value + i * run.value_step;
  }
}

// The longest run that begins with the first of the numbers.
PutRun first_run(const int64_t* places, const int64_t* values, int64_t count) {
  PutRun run{places[0], 0, values[0], 0, 1};
  if (count > 1) {
    run.place_step = places[1] - places[0];
    run.value_step = values[1] - values[0];
  }
  while (run.count < count && places[run.count] - places[run.count - 1] == run.place_step &&
         values[run.count] - values[run.count - 1] == run.value_step) {
    run.count++;
  }
  return run;
}

cudaError_t put(const na_put& put, cudaStream_t stream) {
  PutArguments arguments{static_cast<int64_t*>(put.to->data), {}};
  for (int64_t first = 0; first < put.count;) {
    int runs = 0;
    for (; runs < kMostRuns && first < put.count; runs++) {
      arguments.runs[runs] = first_run(put.places + first, put.values + first, put.count - first);
      first += arguments.runs[runs].count;
    }
    const dim3 grid(static_cast<unsigned>(runs));
    const cudaError_t status = enqueue_kernel(put_kernel, grid, kPutThreads, stream, arguments);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

int64_t put_launches(const na_put& put) {
  int64_t runs = 0;
  for (int64_t first = 0; first < put.count; runs++) {
    first += first_run(put.places + first, put.values + first, put.count - first).count;
  }
  return ceil_div(runs, kMostRuns);
}

}  // namespace na::cuda
