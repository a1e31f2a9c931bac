// The shared memory of a block and its barriers.
#pragma once

#include "arch/sm90.h"
#include "attention/sm90/tiles.h"

namespace na::cuda {

// A ring's stage, and the parity of its round.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Full barriers are signalled by the bytes of the copies; empty barriers by one lane of each warp that is done.
template <typename T>
class Shared {
 public:
  __device__ explicit Shared(uint8_t* memory) : memory_(memory) {}

  __device__ uint8_t* queries(int consumer) const { return memory_ + consumer * T::kQueryBytes; }
  __device__ uint8_t* keys(int stage) const { return memory_ + T::kKeysAt + stage * T::kKeyBytes; }
  __device__ uint8_t* values(int stage) const { return memory_ + T::kValuesAt + stage * T::kValueBytes; }
  __device__ uint8_t* out(int consumer) const {
    return T::kOutApart ? memory_ + T::kRingsEnd + consumer * T::kOutBytes : queries(consumer);
  }

  __device__ uint64_t* keys_full(int stage) const { return barriers() + stage; }
  __device__ uint64_t* keys_empty(int stage) const { return barriers() + T::kStages + stage; }
  __device__ uint64_t* values_full(int stage) const { return barriers() + 2 * T::kStages + stage; }
  __device__ uint64_t* values_empty(int stage) const { return barriers() + 3 * T::kStages + stage; }
  // Of packed sequences: values are full, and clean, see clean().
  __device__ uint64_t* values_clean(int stage) const { return barriers() + 4 * T::kStages + stage; }
  __device__ uint64_t* queries_full(int consumer) const { return barriers() + 5 * T::kStages + consumer; }
  __device__ uint64_t* queries_empty(int consumer) const {
    return barriers() + 5 * T::kStages + T::kConsumers + consumer;
  }

  // By one thread.
  __device__ void init() const {
    for (int stage = 0; stage < T::kStages; stage++) {
      barrier_init(keys_full(stage), 1);
      barrier_init(keys_empty(stage), 4 * T::kConsumers);
      barrier_init(values_full(stage), 1);
      barrier_init(values_empty(stage), 4 * T::kConsumers);
      barrier_init(values_clean(stage), kCleaners);
    }
    for (int consumer = 0; consumer < T::kConsumers; consumer++) {
      barrier_init(queries_full(consumer), 1);
      barrier_init(queries_empty(consumer), 4);
    }
    barrier_init_fence();
  }

  static constexpr int kCleaners = 3;  // warps of the producer's warpgroup

 private:
  __device__ uint64_t* barriers() const { return reinterpret_cast<uint64_t*>(memory_ + T::kBarriersAt); }

  uint8_t* memory_;
};

}  // namespace na::cuda
