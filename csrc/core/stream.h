// A queue of operations on one device.
#pragma once

#include <vector>

#include "core/gate.h"
#include "core/graph.h"

namespace na {

// Used by one JavaScript thread. The environment keeps it until its last operation is done.
class Stream : public RefCounted {
 public:
  // The most operations that may wait in one stream.
  static constexpr uint64_t kQueueLimit = uint64_t{1} << 18;

  // `cancelled` is the environment's flag; it outlives every operation.
  static Status open(Device* device, const int32_t* cancelled, Ref<Stream>* stream);

  // ERR_DEVICE unless the stream is on the device of `name`, which a call is about.
  Status check_device(const Device* wanted, const char* name) const;

  // To be asked before anything is allocated: ERR_OUT_OF_MEMORY when `operations` more do not fit, ERR_CUDA
  // and the like when the device has failed.
  Status room(uint64_t operations = 1) const;

  // Whether the backend can run all of the operations, with the memory that they need.
  Status prepare(Operation* const* operations, size_t count) const;
  // Takes the operation over: enqueues it unless it is refused.
  Status run(Operation* operation);

  // For operations that cannot be refused, or were prepared. They wait for the last writes of what they read, and for
  // the last write and all readers of what they write, wherever these are queued, and for `extra`.
  void enqueue(Operation* operation, const Point& extra = {});

  // From here to end_capture() or abandon_capture(), operations are recorded instead of submitted.
  void begin_capture() { capture_ = Ref<Graph>(new Graph(device)); }
  Status end_capture(Ref<Graph>* graph);
  void abandon_capture() { capture_ = Ref<Graph>(); }
  bool capturing() const { return static_cast<bool>(capture_); }
  // Whether what is captured becomes a graph of the backend, which takes no host memory but pinned one.
  bool makes_graph() const { return capturing() && device->backend->graph_create; }
  void record(std::unique_ptr<RecordedCall> call) { capture_->record(std::move(call)); }
  // Refused before anything is enqueued, but for memory that runs out in the course of it.
  Status launch(const Ref<Graph>& graph);

  Point last() const { return {timeline_, submitted_}; }
  bool idle() const { return timeline_->done(submitted_) && !holding(); }

  // For the end of an environment, once its operations are cancelled. open_gate() hands the backend what is held back;
  // drain() ends what is not running and returns whether there was any; join() blocks until the rest has ended.
  void open_gate() const { gate_->open(); }
  bool drain() const { return device->backend->stream_drain(timeline_->stream) != 0; }
  void join() const {
    timeline_->join(submitted_);
    gate_->join();
  }

  Device* const device;

 protected:
  ~Stream() override;  // only when idle

 private:
  Stream(Device* device, const int32_t* cancelled, na_stream* handle);
  // Whether operations are held back, or another thread is just handing the last of them to the backend.
  bool holding() const { return timeline_->handed() != submitted_; }
  void add_wait(const Point& point, bool pageable);
  Status check_capture(const Operation& operation) const;

  const Ref<Timeline> timeline_;
  const Ref<Gate> gate_;
  const int32_t* const cancelled_;
  uint64_t submitted_ = 0;
  Ref<Graph> capture_;

  // The operation that is being enqueued: what it waits for, at most one point of each stream, and whether it has to be
  // held back until then.
  std::vector<Wait> waits_;
  std::vector<na_wait> backend_waits_;
  bool hold_ = false;
};

}  // namespace na
