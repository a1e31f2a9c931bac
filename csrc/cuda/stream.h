// A stream of a device, and the threads behind it.
//
// Operations are enqueued on a CUDA stream by the thread that submits them, which takes microseconds and waits for
// nothing. Each is followed by an event, and one thread for each stream waits for the events in turn and calls `done`.
// That thread costs memory and a wake-up. cudaLaunchHostFunc would need no thread of ours, but its functions are not
// called after an error, so that a second way to learn of the end would be needed; they hold up the stream until they
// return, may be made to wait for those of other streams, and must not call CUDA, while this thread copies results into
// pageable memory, gives memory back, and may submit what waited for the operation.
//
// Copies from or to pageable memory are cut into pieces. Where there is more than a little to gather, or no room for a
// piece, a second thread enqueues them as room becomes free, and whatever was submitted behind them meanwhile. It also
// enqueues what is submitted while CUDA has much of the stream already, and what is much by itself, since a launch
// waits once there is no room for it.
//
// Behind an operation that could not be enqueued, none of the stream is: each ends with the first one's error, as the
// stream has anyway. Kernels would read what was never written, and a list of pages leads them to addresses.
#pragma once

#include <condition_variable>
#include <deque>

#include "cuda/copy.h"

// The backend table's own name for it.
struct na_stream {
 public:
  static na::Status create(na::cuda::Device& device, na_stream** stream);

  // See na_backend.
  void submit(na_operation* operation, const na_wait* waits, int32_t wait_count);
  void destroy();

 private:
  using Status = na::Status;
  using Device = na::cuda::Device;
  using Copy = na::cuda::Copy;

  // What is enqueued on the CUDA stream: an operation, or a piece of one.
  struct Issued {
    na_operation* operation;
    uint64_t sequence;
    int64_t launches;             // see launches()
    bool last = true;             // of its operation
    bool timed = false;           // the event is one with a time
    cudaEvent_t event = nullptr;  // behind it; none if there is nothing to wait for
    void* piece = nullptr;        // pinned memory
    int64_t piece_bytes = 0;
    int64_t first = 0, end = 0;    // elements in the piece
    Status status{};               // why it could not be enqueued
    std::vector<na_wait> waits{};  // with the last of its operation; their streams are retained
  };
  // What is not yet.
  struct Waiting {
    na_operation* operation;
    uint64_t sequence;
    int64_t launches;
    std::vector<na_wait> waits;  // their streams are retained
  };

  explicit na_stream(Device& device) : device_(device) {}
  ~na_stream();
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release();
  bool start(void (na_stream::*work)());

  int64_t launches(const na_operation& operation, int32_t wait_count) const;
  bool can_issue_now(int64_t launches, const Copy* pageable, const na_wait* waits, int32_t wait_count) const;
  void issue(Issued last, const Copy* copy, const na_wait* waits, int32_t wait_count);
  Status issue_waits(const na_operation& operation, const na_wait* waits, int32_t wait_count);
  void issue_pieces(const Copy& copy, Issued* last);
  void push(Issued issued);
  void record(Issued* issued);

  void issue_waiting();    // a thread
  void wait_for_issued();  // a thread
  void finish(Issued& issued);
  void tell(const Issued& issued);

  Device& device_;
  cudaStream_t stream_ = nullptr;
  std::atomic<int> references_{1};

  std::mutex mutex_;                         // guards all below; never held while that of another stream is taken
  std::condition_variable issuer_, waiter_;  // the two threads
  std::condition_variable progress_;         // something was issued or done, or there is room for pieces
  std::deque<Issued> issued_;                // the first is being waited for
  std::deque<Waiting> waiting_;
  uint64_t submitted_ = 0;
  std::atomic<uint64_t> issued_up_to_{0};  // may be read without the mutex
  uint64_t done_up_to_ = 0;                // `done` has returned
  uint64_t failed_at_ = 0;                 // the first that could not be enqueued, and why; written while issuing_, so
  Status failure_;                         // whoever issues may read it without the mutex
  int64_t piece_bytes_ = 0;                // in pieces that are not yet back
  int64_t launches_ = 0;                   // of issued_
  bool issuing_ = false;                   // somebody is enqueuing, without the mutex
  bool finishing_ = false;                 // somebody calls done, without the mutex
  bool ending_ = false;
};
