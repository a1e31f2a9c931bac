// Attention on Hopper: one producer warpgroup copies tiles to shared memory, two or three consumer warpgroups multiply.
//
// The producer decides what is worked at, and announces it in shared memory to all others: Work.
//
// Who waits for whom, W being waited for:
//   producer    W keys_empty, values_empty    of the consumers, before it overwrites a stage
//               W queries_empty               of one consumer, before it overwrites that consumer's queries: done with
//                                             them, or, where outputs take their place, outputs stored
//               W work_empty                  of all others, before it announces new work in that place
//   consumers   W work_full                   of the producer
//               W queries_full, keys_full, values_full   of the producer's copies
//               W values_clean                of the cleaning warps, where work needs it
//               W their turn                  of the consumer before them
//   cleaners    W work_full                   of the producer
//               W values_full                 of the producer's copies. The stage is not filled again before they have
//                                             looked at it, so that they never miss a round
//
// Turns: consumers start their products in a fixed order, so that while one's products run, the others have their
// softmax. Within a consumer, the next tile's scores are started before the weights of this one meet their values:
//
//   scores 0 | scores 1, values 0 | scores 2, values 1 | ... | values n
//            softmax 0            softmax 1           ...
//
// so that the softmax of a tile runs while the values before it are multiplied, even when no other consumer works. All
// consumers have the same tiles, and so equally many turns.
#pragma once

#include "attention/sm90/consume.h"

namespace na::cuda::sm90 {

template <typename T>
__device__ inline void attend(const Problem& problem, const Launch& launch, const Maps& maps) {
  extern __shared__ __align__(1024) uint8_t memory[];
  const Shared<T> shared(memory);
  const int thread = static_cast<int>(threadIdx.x);
  const int warpgroup = __shfl_sync(0xffffffff, thread / 128, 0);  // so that the compiler sees that a warp has only one
  if (thread == 0) shared.init(launch.cleans);
  __syncthreads();
  if (warpgroup == 0) {
    give_registers<T::kProducerRegisters>();
    if (thread == 0) {
      produce(shared, maps, problem, launch);
    } else if (thread >= 32) {
      clean(shared, problem, launch, thread - 32);
    }
  } else {
    take_registers<T::kConsumerRegisters>();
    consume(shared, maps, problem, warpgroup - 1);
  }
}

template <typename T>
__global__ void __launch_bounds__(T::kThreads, 1)
    attention_sm90_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Launch launch,
                          const __grid_constant__ Maps maps) {
  attend<T>(problem, launch, maps);
}

}  // namespace na::cuda::sm90
