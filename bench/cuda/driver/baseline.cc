#include "baseline.h"

namespace bench {

namespace {

class BaselineContestant final : public Contestant {
 public:
  BaselineContestant(const Baseline& baseline, const Runtime& runtime) : baseline_(baseline), runtime_(runtime) {}
  ~BaselineContestant() override {
    if (graph_) runtime_.cudaGraphExecDestroy(graph_);
    if (plan_) baseline_.baseline_plan_destroy(plan_);
  }

  Status prepare(Backend& backend, const Problem& problem) {
    const driver_shape& s = problem.shape;
    const baseline_shape shape = {s.batch, s.heads, s.kv_heads, s.queries, s.keys, s.head_dim, 1, s.causal, s.scale, 0};
    char error[512];
    int64_t bytes = 0;
    if (baseline_.baseline_plan_create(&shape, &plan_, &bytes, error, sizeof error) != 0) return error;
    if (bytes > 0) {
      if (Status status = backend.allocate(bytes, &workspace_); !status.empty()) return status;
    }
    // The first execution may do what a capture would refuse.
    if (Status status = execute(problem.sets[0]); !status.empty()) return status;
    if (Status status = runtime_.status(runtime_.cudaStreamSynchronize(runtime_.stream())); !status.empty()) {
      return status;
    }
    return record(problem);
  }

  Status run(int passes, std::vector<double>* milliseconds) override {
    Events events(runtime_);
    Status status;
    for (int pass = 0; pass <= passes && status.empty(); pass++) {
      status = runtime_.status(runtime_.cudaGraphLaunch(graph_, runtime_.stream()));
      if (status.empty()) status = events.record();
    }
    return status.empty() ? events.elapsed(milliseconds) : status;
  }

 private:
  Status execute(const Tensors& set) {
    char error[512];
    const int code =
        baseline_.baseline_plan_execute(plan_, set.q.data(), set.k.data(), set.v.data(), set.out.data(), set.lse.data(),
                                        workspace_.data(), runtime_.stream(), error, sizeof error);
    return code == 0 ? Status() : Status(error);
  }

  Status record(const Problem& problem) {
    Status status =
        runtime_.status(runtime_.cudaStreamBeginCapture(runtime_.stream(), cudaStreamCaptureModeThreadLocal));
    if (!status.empty()) return status;
    for (int run = 0; run < problem.shape.runs && status.empty(); run++) {
      status = execute(problem.sets[run % problem.sets.size()]);
    }
    cudaGraph_t graph = nullptr;
    const Status end = runtime_.status(runtime_.cudaStreamEndCapture(runtime_.stream(), &graph));
    if (status.empty()) status = end;
    if (status.empty()) status = runtime_.status(runtime_.cudaGraphInstantiate(&graph_, graph, 0));
    if (graph) runtime_.cudaGraphDestroy(graph);
    return status;
  }

  const Baseline& baseline_;
  const Runtime& runtime_;
  baseline_plan* plan_ = nullptr;
  Memory workspace_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

Status Baseline::open(const char* path, const char* calls, int64_t* version) {
  Status status = library_.open(path);
  if (status.empty()) status = library_.find("baseline_open", baseline_open);
  if (status.empty()) status = library_.find("baseline_version", baseline_version);
  if (status.empty()) status = library_.find("baseline_plan_create", baseline_plan_create);
  if (status.empty()) status = library_.find("baseline_plan_execute", baseline_plan_execute);
  if (status.empty()) status = library_.find("baseline_plan_destroy", baseline_plan_destroy);
  if (!status.empty()) return status;
  char error[512];
  if (baseline_open(calls, error, sizeof error) != 0) return error;
  *version = baseline_version();
  open_ = true;
  return {};
}

Status make_baseline(const Baseline& baseline, const Runtime& runtime, Backend& backend, const Problem& problem,
                     std::unique_ptr<Contestant>* contestant) {
  auto made = std::make_unique<BaselineContestant>(baseline, runtime);
  Status status = made->prepare(backend, problem);
  if (status.empty()) *contestant = std::move(made);
  return status;
}

}  // namespace bench
