// Streams, events and graphs.
#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"

namespace na {
namespace {

// streamCreate(device)
Napi::Value create(const Napi::CallbackInfo& info) {
  Device* device = nullptr;
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), read_device(info[0], &device));
  NA_REFUSE(info.Env(), Environment::of(info.Env())->open_stream(device, &stream));
  return wrap(info.Env(), std::move(stream));
}

// streamSynchronize(stream): a promise for all that has been enqueued so far
Napi::Value synchronize(const Napi::CallbackInfo& info) {
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), unwrap<Stream>(info[0], "stream", &stream));
  const Status failed = stream->device->status();
  if (!failed.ok()) return Environment::of(info.Env())->rejected_promise(failed);
  return Environment::of(info.Env())->promise_at(stream->last());
}

Status not_capturing(const Ref<Stream>& stream, const char* what) {
  if (!stream->capturing()) return {};
  return error(NA_ERR_OPTION, "%s cannot be called on a stream while it captures; call it before or after", what);
}

// streamRecord(stream): an event
Napi::Value record(const Napi::CallbackInfo& info) {
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), unwrap<Stream>(info[0], "stream", &stream));
  NA_REFUSE(info.Env(), not_capturing(stream, "record"));
  NA_REFUSE(info.Env(), stream->room());
  Ref<Timestamp> timestamp(new Timestamp);
  stream->enqueue(new MarkOperation(timestamp));
  return wrap(info.Env(), Ref<Event>(new Event(stream->device, stream->last(), timestamp)));
}

// streamWait(stream, event): what is enqueued from now on begins after the event
Napi::Value wait(const Napi::CallbackInfo& info) {
  Ref<Stream> stream;
  Ref<Event> event;
  NA_REFUSE(info.Env(), unwrap<Stream>(info[0], "stream", &stream));
  NA_REFUSE(info.Env(), unwrap<Event>(info[1], "event", &event));
  NA_REFUSE(info.Env(), not_capturing(stream, "wait"));
  NA_REFUSE(info.Env(), stream->room());
  stream->enqueue(new MarkOperation(Ref<Timestamp>()), event->point);
  return info.Env().Undefined();
}

// streamBeginCapture(stream)
Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), unwrap<Stream>(info[0], "stream", &stream));
  NA_REFUSE(info.Env(), not_capturing(stream, "capture"));
  NA_REFUSE(info.Env(), stream->room());
  stream->begin_capture();
  return info.Env().Undefined();
}

// streamEndCapture(stream): the graph
Napi::Value end_capture(const Napi::CallbackInfo& info) {
  Ref<Stream> stream;
  Ref<Graph> graph;
  NA_REFUSE(info.Env(), unwrap<Stream>(info[0], "stream", &stream));
  if (!stream->capturing()) return refuse(info.Env(), error(NA_ERR_OPTION, "the stream is not capturing"));
  NA_REFUSE(info.Env(), stream->end_capture(&graph));
  return wrap(info.Env(), std::move(graph));
}

// streamAbandonCapture(stream): forgets what was recorded
Napi::Value abandon_capture(const Napi::CallbackInfo& info) {
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), unwrap<Stream>(info[0], "stream", &stream));
  stream->abandon_capture();
  return info.Env().Undefined();
}

// eventDone(event): a promise
Napi::Value event_done(const Napi::CallbackInfo& info) {
  Ref<Event> event;
  NA_REFUSE(info.Env(), unwrap<Event>(info[0], "event", &event));
  return Environment::of(info.Env())->promise_at(event->point);
}

// eventElapsedMs(event, later): both must be done
Napi::Value event_elapsed(const Napi::CallbackInfo& info) {
  Ref<Event> first, later;
  NA_REFUSE(info.Env(), unwrap<Event>(info[0], "event", &first));
  NA_REFUSE(info.Env(), unwrap<Event>(info[1], "later", &later));
  if (first->device != later->device) {
    return refuse(info.Env(), error(NA_ERR_DEVICE, "events of %s and %s have no common clock",
                                    first->device->name.c_str(), later->device->name.c_str()));
  }
  if (!first->point.done() || !later->point.done()) {
    return refuse(info.Env(), error(NA_ERR_PENDING, "an event has not been reached; await done() first"));
  }
  const int64_t nanoseconds = later->timestamp->nanoseconds - first->timestamp->nanoseconds;
  return Napi::Number::New(info.Env(), static_cast<double>(nanoseconds) * 1e-6);
}

// graphLaunch(graph, stream)
Napi::Value graph_launch(const Napi::CallbackInfo& info) {
  Ref<Graph> graph;
  Ref<Stream> stream;
  NA_REFUSE(info.Env(), unwrap<Graph>(info[0], "graph", &graph));
  NA_REFUSE(info.Env(), unwrap<Stream>(info[1], "stream", &stream));
  NA_REFUSE(info.Env(), not_capturing(stream, "launch"));
  NA_REFUSE(info.Env(), stream->check_device(graph->device, "the graph"));
  NA_REFUSE(info.Env(), stream->launch(graph));
  return info.Env().Undefined();
}

}  // namespace

void export_stream(Napi::Env env, Napi::Object exports) {
  export_function<create>(env, exports, "streamCreate");
  export_function<synchronize>(env, exports, "streamSynchronize");
  export_function<record>(env, exports, "streamRecord");
  export_function<wait>(env, exports, "streamWait");
  export_function<begin_capture>(env, exports, "streamBeginCapture");
  export_function<end_capture>(env, exports, "streamEndCapture");
  export_function<abandon_capture>(env, exports, "streamAbandonCapture");
  export_function<dispose<Stream>>(env, exports, "streamDispose");
  export_function<event_done>(env, exports, "eventDone");
  export_function<event_elapsed>(env, exports, "eventElapsedMs");
  export_function<graph_launch>(env, exports, "graphLaunch");
  export_function<dispose<Graph>>(env, exports, "graphDispose");
}

}  // namespace na
