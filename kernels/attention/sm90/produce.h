// The producer's warpgroup: one thread starts all copies to shared memory; the other warps clean values.
#pragma once

#include "attention/sm90/shared.h"
#include "attention/sm90/work.h"

namespace na::cuda {

// How the tensors lie: [batch, tokens, heads, columns], in boxes of T::kBoxColumns columns and some tokens.
struct Maps {
  CUtensorMap q, k, v, out;
};

template <typename T>
__device__ inline void produce(const Shared<T>& shared, const Maps& maps, const Problem& problem,
                               const Launch& launch) {
  Place<T::kStages> keys, values;
  uint32_t queries_parity = 0;
  for_items<T>(problem, launch, [&](const Work<T>& work, const Visits<T>& visits) {
    const Sequence& sequence = work.sequence;
    const auto load_queries = [&] {
#pragma unroll
      for (int consumer = 0; consumer < T::kConsumers; consumer++) {
        barrier_wait(shared.queries_empty(consumer), queries_parity ^ 1);
        uint64_t* const full = shared.queries_full(consumer);
        barrier_expect(full, T::kQueryBytes);
#pragma unroll
        for (int box = 0; box < T::kHeadBoxes; box++) {
          copy_tensor(shared.queries(consumer) + box * T::kRowBoxBytes, &maps.q, full, box * T::kBoxColumns, work.head,
                      sequence.first_query + work.first_query + consumer * T::kOwnRows, sequence.batch);
        }
      }
      queries_parity ^= 1;
    };
    const auto load_keys = [&](int32_t visit) {
      barrier_wait(shared.keys_empty(keys.stage), keys.parity ^ 1);
      uint64_t* const full = shared.keys_full(keys.stage);
      barrier_expect(full, T::kKeyBytes);
#pragma unroll
      for (int box = 0; box < T::kHeadBoxes; box++) {
        copy_tensor(shared.keys(keys.stage) + box * T::kKeyBoxBytes, &maps.k, full, box * T::kBoxColumns, work.kv_head,
                    sequence.first_key + visits.tiles[visit] * T::kKeys, sequence.batch);
      }
      keys.advance();
    };
    const auto load_values = [&](int32_t visit) {
      barrier_wait(shared.values_empty(values.stage), values.parity ^ 1);
      uint64_t* const full = shared.values_full(values.stage);
      barrier_expect(full, T::kValueBytes);
#pragma unroll
      for (int box = 0; box < T::kValueBoxes; box++) {
        copy_tensor(shared.values(values.stage) + box * T::kKeyBoxBytes, &maps.v, full, box * T::kBoxColumns,
                    work.kv_head, sequence.first_key + visits.tiles[visit] * T::kKeys, sequence.batch);
      }
      values.advance();
    };
    if (visits.first == visits.last) return;
    // In the order in which consumers need them and stages become free: keys are one tile ahead of values.
    load_keys(visits.first);
    load_queries();
#pragma unroll 1
    for (int32_t visit = visits.first + 1; visit < visits.last; visit++) {
      load_keys(visit);
      load_values(visit - 1);
    }
    load_values(visits.last - 1);
  });
}

// Values of the next packed sequence, which have weight 0, become zeros: they might be infinite or not a number.
template <typename T>
__device__ inline void clean(const Shared<T>& shared, const Problem& problem, const Launch& launch, int thread) {
  constexpr int kChunks = T::kSpan / 16;  // of a row of a box
  Place<T::kStages> values;
  for_items<T>(problem, launch, [&](const Work<T>& work, const Visits<T>& visits) {
#pragma unroll 1
    for (int32_t visit = visits.first; visit < visits.last; visit++) {
      barrier_wait(shared.values_full(values.stage), values.parity);
      uint8_t* const tile = shared.values(values.stage);
      const int32_t keys = work.sequence.keys - visits.tiles[visit] * T::kKeys;
#pragma unroll 1
      for (int n = keys * kChunks + thread; n < T::kKeys * kChunks; n += 32 * Shared<T>::kCleaners) {
#pragma unroll
        for (int box = 0; box < T::kValueBoxes; box++) {
          *reinterpret_cast<uint4*>(tile + box * T::kKeyBoxBytes + n * 16) = make_uint4(0, 0, 0, 0);
        }
      }
      fence_async();
      __syncwarp();
      if (thread % 32 == 0) barrier_arrive(shared.values_clean(values.stage));
      values.advance();
    }
  });
}

}  // namespace na::cuda
