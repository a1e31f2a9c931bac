#include "own.h"

namespace bench {

namespace {

class Own final : public Contestant {
 public:
  explicit Own(Backend& backend) : backend_(backend) {}
  ~Own() override {
    if (graph_) backend_.table().graph_destroy(graph_);
  }

  Status prepare(const Problem& problem) {
    const driver_shape& s = problem.shape;
    mask_.kind = NA_MASK_WINDOW;
    mask_.left = -1;
    mask_.right = 0;
    calls_ = std::vector<Call>(problem.sets.size());
    for (size_t i = 0; i < calls_.size(); i++) {
      const Tensors& set = problem.sets[i];
      Call& call = calls_[i];
      call.q = tensor(set.q.data(), NA_BFLOAT16, {s.batch, s.queries, s.heads, s.head_dim});
      call.k = tensor(set.k.data(), NA_BFLOAT16, {s.batch, s.keys, s.kv_heads, s.head_dim});
      call.v = tensor(set.v.data(), NA_BFLOAT16, {s.batch, s.keys, s.kv_heads, s.head_dim});
      call.out = tensor(set.out.data(), NA_BFLOAT16, {s.batch, s.queries, s.heads, s.head_dim});
      call.lse = tensor(set.lse.data(), NA_FLOAT32, {s.batch, s.queries, s.heads});
      call.args.q = &call.q;
      call.args.k = &call.k;
      call.args.v = &call.v;
      call.args.out = &call.out;
      call.args.lse = &call.lse;
      call.args.masks = &mask_;
      call.args.mask_count = s.causal ? 1 : 0;
      call.args.scale = s.scale;
      if (Status status = backend_.admit(NA_OP_ATTENTION, &call.args, &call.workspace); !status.empty()) return status;
    }
    operations_ = std::vector<na_operation>(s.runs);
    std::vector<const na_operation*> pointers;
    for (int run = 0; run < s.runs; run++) {
      operations_[run].kind = NA_OP_ATTENTION;
      operations_[run].args = &calls_[run % calls_.size()].args;
      pointers.push_back(&operations_[run]);
    }
    na_error error = {};
    const int code = backend_.table().graph_create(0, pointers.data(), s.runs, &graph_, &error);
    return code == NA_OK ? Status() : Status(error.message);
  }

  Status run(int passes, std::vector<double>* milliseconds) override {
    const na_launch launch = {graph_};
    std::vector<int64_t> times(passes + 1);
    std::vector<na_mark> marks;
    for (int64_t& time : times) marks.push_back({&time});
    Queue queue(backend_);
    queue.submit(NA_OP_LAUNCH, &launch);
    queue.submit(NA_OP_MARK, &marks[0]);
    for (int pass = 1; pass <= passes; pass++) {
      queue.submit(NA_OP_LAUNCH, &launch);
      queue.submit(NA_OP_MARK, &marks[pass]);
    }
    if (Status status = queue.wait(); !status.empty()) return status;
    for (int pass = 1; pass <= passes; pass++) milliseconds->push_back((times[pass] - times[pass - 1]) / 1e6);
    return {};
  }

 private:
  struct Call {
    na_tensor q, k, v, out, lse;
    na_attention args = {};
    Memory workspace;
  };

  Backend& backend_;
  na_mask mask_ = {};
  std::vector<Call> calls_;
  std::vector<na_operation> operations_;  // alive as long as the graph
  na_graph* graph_ = nullptr;
};

}  // namespace

Status make_own(Backend& backend, const Problem& problem, std::unique_ptr<Contestant>* contestant) {
  auto own = std::make_unique<Own>(backend);
  Status status = own->prepare(problem);
  if (status.empty()) *contestant = std::move(own);
  return status;
}

}  // namespace bench
