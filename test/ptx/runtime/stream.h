// Streams: queues of work, each with a thread of its own, so that the host's asynchrony is real. Events mark places in
// them. While a stream captures, its work goes into a graph instead.
//
// Unlike CUDA's legacy default stream, the default stream here waits for no other stream and no other waits for it: a
// program that relies on that is found out.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace standin {

using Work = std::function<void()>;

}  // namespace standin

struct CUgraph_st {
  std::vector<standin::Work> work;
};

struct CUgraphExec_st {
  std::vector<standin::Work> work;
};

struct CUstream_st {
  CUstream_st(int device, unsigned flags);
  ~CUstream_st();  // ends its work first

  void submit(standin::Work work);
  bool idle();
  void drain();

  const int device;
  const unsigned flags;
  std::shared_ptr<CUgraph_st> capture;  // not null while it captures
  bool began_capture = false;           // not joined through an event

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<standin::Work> queue_;
  bool busy_ = false, ending_ = false;
  std::thread thread_;
};

struct CUevent_st {
  // What record() has made of it; shared with the streams that wait.
  struct Mark {
    std::mutex mutex;
    std::condition_variable changed;
    bool reached = false;
    double milliseconds = 0;
    void reach();
    void wait();
  };
  std::shared_ptr<Mark> mark;           // null: never recorded
  std::shared_ptr<CUgraph_st> capture;  // recorded in a stream that captures
  int device = 0;
};

namespace standin {

// The stream that a handle means, 0 and the two special handles included; nullptr when there is none.
CUstream_st* find_stream(cudaStream_t handle);

// Into the stream's queue, or into the graph that it captures.
void enqueue(CUstream_st& stream, Work work);

// Waits for all streams of the thread's device.
void drain_device();

}  // namespace standin
