#include "core/operation.h"

namespace na {
namespace {

void finished(na_operation* base, const na_error* failure) {
  auto* operation = static_cast<Operation*>(base);
  const Ref<Timeline> timeline = operation->timeline;
  if (failure || Storage::any_failed()) operation->spread(failure);
  operation->destroy();  // memory is free again before anybody learns that the work is done
  timeline->advance(failure);
}

}  // namespace

Operation::Operation(na_operation_kind operation_kind) : na_operation{} {
  kind = operation_kind;
  done = finished;
}

Operation::Operation(const Operation& other) : na_operation{}, workspace_(other.workspace_) {
  kind = other.kind;
  done = other.done;
}

Status Operation::prepare(Device* device) {
  int64_t bytes = 0;
  NA_TRY(device->check(kind, args, &bytes));
  if (bytes == 0) return {};
  NA_TRY(Storage::allocate(device, bytes, false, false, &workspace_));
  *workspace() = workspace_->data;
  return {};
}

// Nothing is made of what has failed: a list of pages would lead kernels anywhere.
void Operation::give_up_if_worthless() {
  if (!Storage::any_failed()) return;
  const auto search = [](void* context, Tensor* tensor, bool write) {
    static constexpr int32_t kYes = 1;
    if (!write && tensor->storage->failure()) static_cast<Operation*>(context)->cancelled = &kYes;
  };
  each_tensor(search, this);
}

void Operation::spread(const na_error* failure) {
  Ref<Failure> found(failure ? new Failure(Status::from(*failure)) : nullptr);
  const auto search = [](void* context, Tensor* tensor, bool write) {
    auto& cause = *static_cast<Ref<Failure>*>(context);
    if (!cause && !write) cause = Ref<Failure>(tensor->storage->failure());
  };
  const auto hand_on = [](void* context, Tensor* tensor, bool write) {
    if (write) tensor->storage->fail(*static_cast<Ref<Failure>*>(context));
  };
  each_tensor(search, &found);
  if (found) each_tensor(hand_on, &found);
}

void Operation::retain_tensors() {
  each_tensor([](void*, Tensor* tensor, bool) { tensor->retain(); }, nullptr);
}

void Operation::destroy() {
  each_tensor([](void*, Tensor* tensor, bool) { tensor->release(); }, nullptr);
  delete this;
}

CopyOperation::CopyOperation(Tensor* source, Tensor* target)
    : Operation(NA_OP_COPY), copy_{&source->view, &target->view, nullptr} {
  args = &copy_;
  retain_tensors();
}

CopyOperation::CopyOperation(const CopyOperation& other) : Operation(other), copy_(other.copy_) {
  args = &copy_;
  retain_tensors();
}

void CopyOperation::each_tensor(Visit visit, void* context) const {
  visit(context, Tensor::of(copy_.src), false);
  visit(context, Tensor::of(copy_.dst), true);
}

ZeroOperation::ZeroOperation(Tensor* tensor)
    : Operation(NA_OP_ZERO), tensor_(tensor), zero_{tensor->storage->data, tensor->storage->bytes} {
  args = &zero_;
  retain_tensors();
}

ZeroOperation::ZeroOperation(const ZeroOperation& other)
    : Operation(other), tensor_(other.tensor_), zero_(other.zero_) {
  args = &zero_;
  retain_tensors();
}

MarkOperation::MarkOperation(Ref<Timestamp> timestamp) : Operation(NA_OP_MARK), timestamp_(std::move(timestamp)) {
  mark_.nanoseconds = timestamp_ ? &timestamp_->nanoseconds : nullptr;
  args = &mark_;
}

MarkOperation::MarkOperation(const MarkOperation& other)
    : Operation(other), mark_(other.mark_), timestamp_(other.timestamp_) {
  args = &mark_;
}

}  // namespace na
