// The shared memory of a block and its barriers.
#pragma once

#include "arch/sm90.h"
#include "attention/sm90/work.h"

namespace na::cuda::sm90 {

// A ring's stage, and the parity of its round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The visit of a key tile, of each axis; the last one is not used.
struct GridVisit {
  int32_t at[kMostAxes + 1];
};

// Full barriers are signalled by the bytes of copies, or by the one thread that writes; empty barriers by one lane of
// each warp that is done.
template <typename T>
class Shared {
 public:
  __device__ explicit Shared(uint8_t* memory) : memory_(memory), base_(shared_address(memory)) {}

  __device__ uint32_t queries(int consumer) const { return base_ + consumer * T::kQueryBytes; }
  __device__ uint32_t keys(int stage) const { return base_ + T::kKeysAt + stage * T::kKeyBytes; }
  __device__ uint32_t values(int stage) const { return base_ + T::kValuesAt + stage * T::kValueBytes; }
  __device__ uint32_t out(int consumer) const { return base_ + T::kOutAt + consumer * T::kOutPitch; }
  static_assert(2 * sizeof(Work<T>) <= T::kWorkBytes);
  __device__ Work<T>& work(int stage) const { return reinterpret_cast<Work<T>*>(memory_ + T::kWorkAt)[stage]; }

  // Of a grid: what the keys, or the values, of a stage are.
  __device__ GridVisit& keys_visit(int stage) const { return visit(stage); }
  __device__ GridVisit& values_visit(int stage) const { return visit(T::kStages + stage); }

  __device__ uint32_t keys_full(int stage) const { return barrier(stage); }
  __device__ uint32_t keys_empty(int stage) const { return barrier(T::kStages + stage); }
  __device__ uint32_t values_full(int stage) const { return barrier(2 * T::kStages + stage); }
  __device__ uint32_t values_empty(int stage) const { return barrier(3 * T::kStages + stage); }
  __device__ uint32_t values_clean(int stage) const { return barrier(4 * T::kStages + stage); }
  __device__ uint32_t queries_full(int consumer) const { return barrier(5 * T::kStages + consumer); }
  __device__ uint32_t queries_empty(int consumer) const { return barrier(5 * T::kStages + T::kConsumers + consumer); }
  __device__ uint32_t work_full(int stage) const { return barrier(5 * T::kStages + 2 * T::kConsumers + stage); }
  __device__ uint32_t work_empty(int stage) const { return barrier(5 * T::kStages + 2 * T::kConsumers + 2 + stage); }

  // By one thread.
  __device__ void init(bool cleans) const {
    for (int stage = 0; stage < T::kStages; stage++) {
      barrier_init(keys_full(stage), 1);
      barrier_init(keys_empty(stage), 4 * T::kConsumers);
      barrier_init(values_full(stage), 1);
      barrier_init(values_empty(stage), 4 * T::kConsumers + (cleans ? T::kCleaners : 0));
      barrier_init(values_clean(stage), T::kCleaners);
    }
    for (int consumer = 0; consumer < T::kConsumers; consumer++) {
      barrier_init(queries_full(consumer), 1);
      barrier_init(queries_empty(consumer), 4);
    }
    for (int stage = 0; stage < 2; stage++) {
      barrier_init(work_full(stage), 1);
      barrier_init(work_empty(stage), 4 * T::kConsumers + T::kCleaners);
    }
    barrier_init_fence();
  }

 private:
  static_assert(2 * T::kStages * sizeof(GridVisit) <= T::kVisitBytes || !T::kGrid);
  __device__ GridVisit& visit(int index) const { return reinterpret_cast<GridVisit*>(memory_ + T::kVisitsAt)[index]; }
  __device__ uint32_t barrier(int index) const { return base_ + T::kBarriersAt + 8 * index; }

  uint8_t* memory_;
  uint32_t base_;
};

// Calls `each(work)` for all that the producer announces. A whole warp.
template <typename T, typename Each>
__device__ inline void for_work(const Shared<T>& shared, int lane, Each each) {
#pragma unroll 1
  for (RingPlace<2> place;; place.advance()) {
    barrier_wait(shared.work_full(place.stage), place.parity);
    const Work<T>& work = shared.work(place.stage);
    if (work.last < 0) return;
    each(work);
    __syncwarp();
    if (lane == 0) barrier_arrive(shared.work_empty(place.stage));
  }
}

}  // namespace na::cuda::sm90
