// A stream of the table: a stream of CUDA and the threads behind it.
//
// submit() enqueues on the device from the caller's own thread, unless something before it waits for a thread's help:
// then it is queued for the issuing thread. That one carries copies from and to ordinary host memory (transfer.h),
// which take as long as they take, and waits for operations of other streams that have not been issued themselves. It
// is started when it is needed first.
//
// The finishing thread waits for one operation after the other and calls their `done`. cudaLaunchHostFunc would spare
// the thread, but its function is not called once the device has failed, may be held up by those of other streams,
// holds up its own stream while it runs, and may not call CUDA, which freeing memory does. Waiting for an event has
// none of that and returns the error.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/device.h"
#include "cuda/transfer.h"

namespace na::cuda {

// An event of CUDA, given back when nobody names it any more.
class Event {
 public:
  static Status make(Device& device, bool timed, std::shared_ptr<Event>* event);
  ~Event() { cudaEventDestroy(handle); }
  cudaEvent_t handle = nullptr;

 private:
  Event() = default;
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  static Status open(Device& device, std::shared_ptr<Stream>* stream);
  ~Stream();

  void submit(na_operation* operation, const na_wait* waits, int32_t wait_count);
  void close();  // when all is done; the threads end by themselves

 private:
  // A point of another stream to be waited for. The stream is kept, since it may be closed meanwhile.
  struct Wait {
    std::shared_ptr<Stream> stream;
    uint64_t sequence;
  };
  struct Queued {
    na_operation* operation;
    std::vector<Wait> waits;
  };
  // Issued: its end is what the event says; without an event it has ended.
  struct Issued {
    na_operation* operation;
    uint64_t sequence;
    std::shared_ptr<Event> event;
    Status status;
    bool cancelled;
  };

  explicit Stream(Device& device) : device_(device), staging_(device) {}

  bool has_issued(uint64_t sequence);
  // The event of an issued operation; nullptr when it is done.
  std::shared_ptr<Event> event_at(uint64_t sequence);
  void wait_until_issued(uint64_t sequence);

  void issue(const Queued& queued);
  Status enqueue_on_device(const Queued& queued);
  Status judge(cudaError_t failure, const char* during);
  void issue_queued();
  void finish_issued();

  Device& device_;
  cudaStream_t stream_ = nullptr;
  Staging staging_;  // the issuing thread's

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Queued> queue_;  // the first is with the issuing thread, unless busy_
  std::deque<Issued> issued_;
  uint64_t issued_count_ = 0;
  bool busy_ = false;     // a caller issues an operation itself
  bool issuing_ = false;  // the issuing thread was started
  bool closed_ = false;
};

}  // namespace na::cuda

// What the table knows.
struct na_stream {
  std::shared_ptr<na::cuda::Stream> stream;
};
