// A queue of operations on one device, and the lists of operations recorded from it.
#pragma once

#include <memory>
#include <vector>

#include "core/operation.h"

namespace na {

// A recorded list of operations. On backends without graphs of their own it is submitted again at each launch.
class Graph : public RefCounted {
 public:
  explicit Graph(Device* device) : device(device) {}
  void record(Operation* operation) { operations_.push_back(operation); }
  const std::vector<Operation*>& operations() const { return operations_; }
  Device* const device;

 protected:
  ~Graph() override {
    for (Operation* operation : operations_) operation->destroy();
  }

 private:
  std::vector<Operation*> operations_;
};

// Used by one JavaScript thread. The environment keeps it until its last operation is done.
class Stream : public RefCounted {
 public:
  // The most operations that may wait in one stream.
  static constexpr uint64_t kQueueLimit = uint64_t{1} << 18;

  // `cancelled` is the environment's flag; it outlives every operation.
  static Status open(Device* device, const int32_t* cancelled, Ref<Stream>* stream);

  // To be asked before anything is allocated: ERR_OUT_OF_MEMORY when `operations` more do not fit, ERR_CUDA
  // and the like when the device has failed.
  Status room(uint64_t operations = 1) const;

  // Takes the operation over. It waits for the last writes of what it reads, and for the last write and all
  // readers of what it writes, wherever they are queued, and for `extra`.
  void enqueue(Operation* operation, const Point& extra = {});

  // From here to end_capture(), operations are recorded instead of submitted.
  void begin_capture() { capture_ = Ref<Graph>(new Graph(device)); }
  Ref<Graph> end_capture() { return std::exchange(capture_, Ref<Graph>()); }
  bool capturing() const { return static_cast<bool>(capture_); }
  void launch(const Graph& graph);

  Point last() const { return {timeline_, submitted_}; }
  bool idle() const { return timeline_->done(submitted_); }

  // For the end of an environment, once its operations are cancelled. drain() ends what is not running and returns
  // whether there was any; join() blocks until the rest has ended.
  bool drain() const { return device->backend->stream_drain(timeline_->stream) != 0; }
  void join() const { timeline_->join(submitted_); }

  Device* const device;

 protected:
  ~Stream() override;  // only when idle

 private:
  Stream(Device* device, const int32_t* cancelled, na_stream* handle);
  Ref<Timeline> timeline_;
  const int32_t* const cancelled_;
  uint64_t submitted_ = 0;
  Ref<Graph> capture_;
};

}  // namespace na
