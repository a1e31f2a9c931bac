// Operations recorded from a stream, to be launched again and again.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "core/operation.h"

namespace na {

class KvCache;
class Stream;

// A call that each launch makes anew, since what it does follows from what a KvCache holds by then.
class RecordedCall {
 public:
  // Of each sequence: what the calls of a launch add to caches.
  using Growth = std::map<const KvCache*, std::vector<int64_t>>;
  static constexpr uint64_t kMostOperations = 3;

  virtual ~RecordedCall() = default;
  // Whether there will be room, before anything of a launch is enqueued; `growth` is that of the calls before it.
  virtual Status check(Growth* growth) const = 0;
  virtual Status make(Stream* stream) const = 0;
};

class Graph : public RefCounted {
 public:
  // Either an operation or a call.
  struct Step {
    Operation* operation;
    std::unique_ptr<RecordedCall> call;
  };

  explicit Graph(Device* device) : device(device) {}
  void record(Operation* operation) {
    steps_.push_back({operation, nullptr});
    queued_++;
  }
  void record(std::unique_ptr<RecordedCall> call) {
    steps_.push_back({nullptr, std::move(call)});
    queued_ += RecordedCall::kMostOperations;
  }

  // At the end of the recording: makes one graph of the operations, where the backend can.
  Status finish();
  // Before a launch, what its calls may be refused for.
  Status check() const;

  const std::vector<Step>& steps() const { return steps_; }
  // That a launch enqueues, at most.
  uint64_t queued() const { return handle_ ? 1 : queued_; }
  // Null where a launch enqueues the operations one by one.
  na_graph* handle() const { return handle_; }
  void each_tensor(Operation::Visit visit, void* context) const {
    for (const Touched& touched : touched_) visit(context, touched.tensor, touched.write);
  }

  Device* const device;

 protected:
  ~Graph() override;

 private:
  struct Touched {
    Tensor* tensor;
    bool write;
  };
  void touch(Tensor* tensor, bool write);

  std::vector<Step> steps_;
  uint64_t queued_ = 0;
  na_graph* handle_ = nullptr;
  std::vector<Touched> touched_;  // what a launch reads or writes: every storage once
};

// One launch of a graph that the backend has made.
class LaunchOperation final : public Operation {
 public:
  explicit LaunchOperation(Ref<Graph> graph);
  void each_tensor(Visit visit, void* context) const override { graph_->each_tensor(visit, context); }
  Operation* clone() const override { return new LaunchOperation(graph_); }

 private:
  na_launch launch_;
  const Ref<Graph> graph_;
};

}  // namespace na
