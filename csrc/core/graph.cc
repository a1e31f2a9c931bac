#include "core/graph.h"

namespace na {

Status Graph::finish() {
  const na_backend* backend = device->backend;
  if (!backend->graph_create || steps_.empty()) return {};
  std::vector<const na_operation*> list;
  for (const Step& step : steps_) {
    if (step.call) return {};
    list.push_back(step.operation);
  }
  na_error failure{};
  if (backend->graph_create(device->index, list.data(), static_cast<int32_t>(list.size()), &handle_, &failure)) {
    handle_ = nullptr;
    return Status::from(failure);
  }
  for (const Step& step : steps_) {
    step.operation->each_tensor(
        [](void* graph, Tensor* tensor, bool write) { static_cast<Graph*>(graph)->touch(tensor, write); }, this);
  }
  return {};
}

Status Graph::check() const {
  RecordedCall::Growth growth;
  for (const Step& step : steps_) {
    if (step.call) NA_TRY(step.call->check(&growth));
  }
  return {};
}

void Graph::touch(Tensor* tensor, bool write) {
  for (Touched& touched : touched_) {
    if (touched.tensor->storage.get() != tensor->storage.get()) continue;
    touched.write |= write;
    return;
  }
  touched_.push_back({tensor, write});
}

Graph::~Graph() {
  if (handle_) device->backend->graph_destroy(handle_);
  for (const Step& step : steps_) {
    if (step.operation) step.operation->destroy();
  }
}

LaunchOperation::LaunchOperation(Ref<Graph> graph)
    : Operation(NA_OP_LAUNCH), launch_{graph->handle()}, graph_(std::move(graph)) {
  args = &launch_;
  retain_tensors();
}

}  // namespace na
