#include "core/stream.h"

namespace na {
namespace {

// The operation becomes the last to have written or read what it touches.
void leave_mark(void* context, Tensor* tensor, bool write) {
  const Point& point = *static_cast<const Point*>(context);
  Storage& storage = *tensor->storage;
  if (write) {
    storage.last_write = point;
    storage.readers.clear();
    return;
  }
  for (Point& reader : storage.readers) {
    if (reader.timeline.get() == point.timeline.get() || reader.done()) {
      reader = point;
      return;
    }
  }
  storage.readers.push_back(point);
}

}  // namespace

Stream::Stream(Device* device, const int32_t* cancelled, na_stream* handle)
    : device(device),
      timeline_(new Timeline(device->backend, handle)),
      gate_(new Gate(device->backend, timeline_)),
      cancelled_(cancelled) {}

Stream::~Stream() { device->backend->stream_destroy(timeline_->stream); }

Status Stream::open(Device* device, const int32_t* cancelled, Ref<Stream>* stream) {
  NA_TRY(device->status());
  na_stream* handle = nullptr;
  na_error failure{};
  if (device->backend->stream_create(device->index, &handle, &failure)) return Status::from(failure);
  *stream = Ref<Stream>(new Stream(device, cancelled, handle));
  return {};
}

Status Stream::check_device(const Device* wanted, const char* name) const {
  if (device == wanted) return {};
  return error(NA_ERR_DEVICE, "stream is on %s but %s is on %s; make one there with new Stream('%s')",
               device->name.c_str(), name, wanted->name.c_str(), wanted->name.c_str());
}

Status Stream::room(uint64_t operations) const {
  NA_TRY(device->status());
  NA_TRY(timeline_->status());
  if (!capturing() && submitted_ - timeline_->completed() + operations > kQueueLimit) {
    return error(NA_ERR_OUT_OF_MEMORY,
                 "the stream already holds %llu queued operations of at most %llu: await synchronize() now and then",
                 static_cast<unsigned long long>(submitted_ - timeline_->completed()),
                 static_cast<unsigned long long>(kQueueLimit));
  }
  return {};
}

Status Stream::prepare(Operation* const* operations, size_t count) const {
  for (size_t i = 0; i < count; i++) {
    NA_TRY(operations[i]->prepare(device));
    if (makes_graph()) NA_TRY(check_capture(*operations[i]));
  }
  return {};
}

Status Stream::run(Operation* operation) {
  const Status status = prepare(&operation, 1);
  if (status.ok()) {
    enqueue(operation);
  } else {
    operation->destroy();
  }
  return status;
}

void Stream::enqueue(Operation* operation, const Point& extra) {
  operation->cancelled = cancelled_;
  if (capturing()) {
    capture_->record(operation);
    return;
  }
  waits_.clear();
  hold_ = holding();  // what is held back is not overtaken
  operation->each_tensor(
      [](void* context, Tensor* tensor, bool write) {
        auto* stream = static_cast<Stream*>(context);
        const Storage& storage = *tensor->storage;
        const bool pageable = storage.device->host && !storage.pinned_by;
        stream->add_wait(storage.last_write, pageable);
        if (write) {
          for (const Point& reader : storage.readers) stream->add_wait(reader, pageable);
        }
      },
      this);
  add_wait(extra, false);
  operation->timeline = timeline_;
  Point point{timeline_, ++submitted_};
  operation->each_tensor(leave_mark, &point);
  if (hold_) {
    gate_->hold(operation, submitted_, waits_);
    return;
  }
  backend_waits_.clear();
  for (const Wait& wait : waits_) backend_waits_.push_back({wait.timeline->stream, wait.sequence});
  gate_->hand(operation, submitted_, backend_waits_);
}

void Stream::add_wait(const Point& point, bool pageable) {
  if (point.done()) return;
  // Other devices than the CPU may touch pageable memory as soon as an operation is submitted; pinned memory they reach
  // in the order of their streams.
  const bool at_once = pageable && !device->host;
  if (point.timeline.get() == timeline_.get() && !at_once) return;  // a stream is in order by itself
  // The backend sees to the order of points of its own that it knows already.
  hold_ |= at_once || point.timeline->backend != device->backend || point.sequence > point.timeline->handed();
  for (Wait& wait : waits_) {
    if (wait.timeline == point.timeline.get()) {
      if (wait.sequence < point.sequence) wait.sequence = point.sequence;
      return;
    }
  }
  waits_.push_back({point.timeline.get(), point.sequence});
}

Status Stream::check_capture(const Operation& operation) const {
  const Tensor* pageable = nullptr;
  operation.each_tensor(
      [](void* context, Tensor* tensor, bool) {
        const Storage& storage = *tensor->storage;
        if (storage.device->host && !storage.pinned_by) *static_cast<const Tensor**>(context) = tensor;
      },
      &pageable);
  if (!pageable) return {};
  return error(NA_ERR_OPTION,
               "capture: %s is in pageable memory, whose copies cannot be captured; use pinned memory: "
               "Tensor.empty(shape, { dtype, pinned: true })",
               pageable->describe().c_str());
}

Status Stream::end_capture(Ref<Graph>* graph) {
  *graph = std::exchange(capture_, Ref<Graph>());
  return (*graph)->finish();
}

Status Stream::launch(const Ref<Graph>& graph) {
  NA_TRY(room(graph->queued()));
  NA_TRY(graph->check());
  if (graph->handle()) {
    enqueue(new LaunchOperation(graph));
    return {};
  }
  for (const Graph::Step& step : graph->steps()) {
    if (step.call) {
      NA_TRY(step.call->make(this));
    } else {
      enqueue(step.operation->clone());
    }
  }
  return {};
}

}  // namespace na
