#include "core/stream.h"

namespace na {
namespace {

// The points that an operation has to wait for, at most one for each other stream.
struct Waits {
  const Timeline* own;
  std::vector<na_wait> list;

  void add(const Point& point) {
    if (point.done() || point.timeline.get() == own) return;  // a stream is in order by itself
    for (na_wait& wait : list) {
      if (wait.stream == point.timeline->stream) {
        if (wait.sequence < point.sequence) wait.sequence = point.sequence;
        return;
      }
    }
    list.push_back({point.timeline->stream, point.sequence});
  }
};

void collect(void* context, Tensor* tensor, bool write) {
  auto* waits = static_cast<Waits*>(context);
  const Storage& storage = *tensor->storage;
  waits->add(storage.last_write);
  if (write) {
    for (const Point& reader : storage.readers) waits->add(reader);
  }
}

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
    : device(device), timeline_(new Timeline), cancelled_(cancelled) {
  timeline_->stream = handle;
}

Stream::~Stream() { device->backend->stream_destroy(timeline_->stream); }

Status Stream::open(Device* device, const int32_t* cancelled, Ref<Stream>* stream) {
  na_stream* handle = nullptr;
  na_error failure{};
  if (device->backend->stream_create(device->index, &handle, &failure)) return Status::from(failure);
  *stream = Ref<Stream>(new Stream(device, cancelled, handle));
  return {};
}

Status Stream::room(uint64_t operations) const {
  NA_TRY(timeline_->status());
  if (!capturing() && submitted_ - timeline_->completed() + operations > kQueueLimit) {
    return error(NA_ERR_OUT_OF_MEMORY,
                 "the stream already holds %llu queued operations of at most %llu: await synchronize() now and then",
                 static_cast<unsigned long long>(submitted_ - timeline_->completed()),
                 static_cast<unsigned long long>(kQueueLimit));
  }
  return {};
}

void Stream::enqueue(Operation* operation, const Point& extra) {
  if (capturing()) {
    capture_->record(operation);
    return;
  }
  Waits waits{timeline_.get(), {}};
  operation->each_tensor(collect, &waits);
  waits.add(extra);
  operation->timeline = timeline_;
  operation->cancelled = cancelled_;
  Point point{timeline_, ++submitted_};
  operation->each_tensor(leave_mark, &point);
  device->backend->submit(timeline_->stream, operation, waits.list.data(), static_cast<int32_t>(waits.list.size()));
}

void Stream::launch(const Graph& graph) {
  for (const Operation* operation : graph.operations()) enqueue(operation->clone());
}

}  // namespace na
