// What is queued on a stream: a backend operation together with references to all it reads and writes.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace na {

class Operation : public na_operation {
 public:
  using Visit = void (*)(void* context, Tensor* tensor, bool write);

  // Every tensor the operation touches, with the direction.
  virtual void each_tensor(Visit visit, void* context) const = 0;
  // The same work again, for graphs. The copy holds references of its own.
  virtual Operation* clone() const = 0;

  // Asks the backend whether it can run the operation, and allocates the workspace that it wants.
  Status prepare(Device* device);

  // References are taken once the arguments are set, and given back with the operation itself, from any thread.
  void retain_tensors();
  void destroy();

  // Cancels itself when what it reads is already known to be worth nothing.
  void give_up_if_worthless();

  // What it wrote is worth nothing when it failed, or when what it read was so.
  void spread(const na_error* failure);

  Ref<Timeline> timeline;  // of the stream it was submitted to

 protected:
  explicit Operation(na_operation_kind operation_kind);
  Operation(const Operation& other);
  virtual ~Operation() = default;
  // Where the arguments name their workspace; null when the operation has none.
  virtual void** workspace() { return nullptr; }

 private:
  Ref<Storage> workspace_;  // shared by clones: these follow each other, since they write the same tensors
};

class CopyOperation final : public Operation {
 public:
  CopyOperation(Tensor* source, Tensor* target);
  CopyOperation(const CopyOperation& other);
  void each_tensor(Visit visit, void* context) const override;
  Operation* clone() const override { return new CopyOperation(*this); }

 private:
  void** workspace() override { return &copy_.workspace; }
  na_copy copy_;
};

// Sets the bytes of a new tensor on a device to zero.
class ZeroOperation final : public Operation {
 public:
  explicit ZeroOperation(Tensor* tensor);
  ZeroOperation(const ZeroOperation& other);
  void each_tensor(Visit visit, void* context) const override { visit(context, tensor_, true); }
  Operation* clone() const override { return new ZeroOperation(*this); }

 private:
  Tensor* const tensor_;
  const na_zero zero_;
};

// The device's clock at a point of a stream.
struct Timestamp : RefCounted {
  int64_t nanoseconds = 0;
};

// Does nothing; with a timestamp it is an event, with an extra wait it orders streams.
class MarkOperation final : public Operation {
 public:
  explicit MarkOperation(Ref<Timestamp> timestamp);
  MarkOperation(const MarkOperation& other);
  void each_tensor(Visit, void*) const override {}
  Operation* clone() const override { return new MarkOperation(*this); }

 private:
  na_mark mark_;
  Ref<Timestamp> timestamp_;
};

}  // namespace na
