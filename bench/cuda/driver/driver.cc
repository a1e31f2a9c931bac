#include "driver.h"

#include <cstdio>

#include "baseline.h"
#include "own.h"
#include "peaks.h"
#include "runtime.h"

namespace {

using bench::Status;

thread_local Status last_error;

// Used by one thread of JavaScript, and never torn down: a device that failed would not let go of anything.
struct State {
  bench::Backend backend;
  bench::Runtime runtime;
  bench::Baseline baselines[DRIVER_CONTESTANTS];  // by contestant; that of this library is none
  bench::Problem problem;
  std::unique_ptr<bench::Contestant> contestants[DRIVER_CONTESTANTS];
};
State& state() {
  static State& made = *new State;
  return made;
}

int finish(Status status) {
  last_error = std::move(status);
  return last_error.empty() ? 0 : -1;
}

}  // namespace

const char* driver_error(void) { return last_error.c_str(); }

int driver_open(const char* backend) { return finish(state().backend.open(backend)); }

int driver_device(char* name, char* instruction_set, uint64_t size, int64_t* memory_bytes) {
  na_device_info info = {};
  state().backend.table().device_info(0, &info);
  std::snprintf(name, size, "%s", info.name);
  std::snprintf(instruction_set, size, "%s", info.instruction_set);
  *memory_bytes = info.memory_bytes;
  return finish({});
}

int driver_open_runtime(const char* cudart) { return finish(state().runtime.open(cudart)); }

int driver_open_baseline(int32_t contestant, const char* baseline, const char* library, int64_t* version) {
  return finish(state().baselines[contestant].open(baseline, library, version));
}

int driver_problem(const driver_shape* shape, const uint16_t* block, int64_t count) {
  State& s = state();
  driver_release();
  Status status = bench::make_problem(s.backend, *shape, block, count, &s.problem);
  if (!status.empty()) driver_release();
  return finish(std::move(status));
}

int driver_release(void) {
  State& s = state();
  for (auto& contestant : s.contestants) contestant.reset();
  s.problem.sets.clear();
  return finish({});
}

int driver_prepare(int32_t contestant) {
  State& s = state();
  if (s.problem.sets.empty()) return finish("there is no problem on the device");
  auto* made = &s.contestants[contestant];
  if (contestant == DRIVER_OWN) return finish(bench::make_own(s.backend, s.problem, made));
  const bench::Baseline& baseline = s.baselines[contestant];
  if (!baseline.is_open() || !s.runtime.is_open()) return finish("not present");
  return finish(bench::make_baseline(baseline, s.runtime, s.backend, s.problem, made));
}

int driver_poison(void) { return finish(bench::poison(state().backend, state().problem)); }

int driver_results(int32_t set, uint16_t* out, float* lse) {
  State& s = state();
  const bench::Tensors& tensors = s.problem.sets[set];
  Status status = s.backend.copy(out, tensors.out.data(), tensors.out.bytes());
  if (status.empty()) status = s.backend.copy(lse, tensors.lse.data(), tensors.lse.bytes());
  return finish(std::move(status));
}

int driver_run(int32_t contestant, int32_t passes, double* milliseconds) {
  State& s = state();
  if (!s.contestants[contestant]) return finish("it was not prepared");
  std::vector<double> times;
  Status status = s.contestants[contestant]->run(passes, &times);
  for (size_t i = 0; i < times.size(); i++) milliseconds[i] = times[i] / s.problem.shape.runs;
  return finish(std::move(status));
}

int driver_copy(int64_t bytes, int32_t times, double* backend_seconds, double* event_seconds) {
  return finish(bench::time_copies(state().backend, state().runtime, bytes, times, backend_seconds, event_seconds));
}

int driver_matrix(const char* kernels, double* seconds, double* operations) {
  return finish(bench::time_products(state().runtime, kernels, seconds, operations));
}
