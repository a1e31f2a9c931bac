// Operations recorded from a stream, to be launched again and again.
#pragma once

#include <vector>

#include "core/operation.h"

namespace na {

class Graph : public RefCounted {
 public:
  explicit Graph(Device* device) : device(device) {}
  void record(Operation* operation) { operations_.push_back(operation); }

  // At the end of the recording: makes one graph of the operations, where the backend can.
  Status finish();

  const std::vector<Operation*>& operations() const { return operations_; }
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

  std::vector<Operation*> operations_;
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
