// The producer's warpgroup: one thread starts all copies to shared memory; the other warps clean values.
#pragma once

#include "attention/sm90/shared.h"
#include "attention/sm90/work.h"

namespace na::cuda::sm90 {

// How the tensors lie: [batch, tokens, heads, columns], in boxes of T::kBoxColumns columns and some tokens.
struct Maps {
  CUtensorMap q, k, v, out;
};

template <typename T>
__device__ inline void produce_work(const Shared<T>& shared, const Maps& maps, const Work<T>& work,
                                    Place<T::kStages>& keys, Place<T::kStages>& values, uint32_t& queries_parity) {
  const auto load_queries = [&] {
#pragma unroll 1
    for (int consumer = 0; consumer < T::kConsumers; consumer++) {
      barrier_wait(shared.queries_empty(consumer), queries_parity ^ 1);
      const uint32_t full = shared.queries_full(consumer);
      barrier_expect(full, T::kQueryBytes);
#pragma unroll
      for (int box = 0; box < T::kHeadBoxes; box++) {
        copy_tensor(shared.queries(consumer) + box * T::kRowBoxBytes, &maps.q, full, box * T::kBoxColumns, work.head,
                    work.sequence.first_query + work.first_query + consumer * T::kOwnRows, work.sequence.batch);
      }
    }
    queries_parity ^= 1;
  };
  const auto load_keys = [&](int32_t visit) {
    barrier_wait(shared.keys_empty(keys.stage), keys.parity ^ 1);
    const uint32_t full = shared.keys_full(keys.stage), to = shared.keys(keys.stage);
    barrier_expect(full, T::kKeyBytes);
#pragma unroll
    for (int box = 0; box < T::kHeadBoxes; box++) {
      copy_tensor(to + box * T::kKeyBoxBytes, &maps.k, full, box * T::kBoxColumns, work.kv_head,
                  work.sequence.first_key + work.tiles[visit] * T::kKeys, work.sequence.batch);
    }
    keys.advance();
  };
  const auto load_values = [&](int32_t visit) {
    barrier_wait(shared.values_empty(values.stage), values.parity ^ 1);
    const uint32_t full = shared.values_full(values.stage), to = shared.values(values.stage);
    barrier_expect(full, T::kValueBytes);
#pragma unroll
    for (int box = 0; box < T::kValueBoxes; box++) {
      copy_tensor(to + box * T::kKeyBoxBytes, &maps.v, full, box * T::kBoxColumns, work.kv_head,
                  work.sequence.first_key + work.tiles[visit] * T::kKeys, work.sequence.batch);
    }
    values.advance();
  };
  // In the order in which consumers need them and stages become free: keys are one tile ahead of values.
#pragma unroll 1
  for (int32_t visit = work.first; visit < work.last; visit++) {
    load_keys(visit);
    if (visit == work.first) {
      load_queries();
    } else {
      load_values(visit - 1);
    }
  }
  if (work.first < work.last) load_values(work.last - 1);
}

// One thread: announces one item of work after the other, and starts its copies.
template <typename T>
__device__ inline void produce(const Shared<T>& shared, const Maps& maps, const Problem& problem,
                               const Launch& launch) {
  const auto block = static_cast<int32_t>(blockIdx.x);
  Place<T::kStages> keys, values;
  Place<2> place;
  uint32_t queries_parity = 0;
#pragma unroll 1
  for (int32_t round = 0;; round++) {
    const int32_t item = round * launch.blocks + (round % 2 == 0 ? block : launch.blocks - 1 - block);
    barrier_wait(shared.work_empty(place.stage), place.parity ^ 1);
    Work<T>& work = shared.work(place.stage);
    const bool more = item < launch.items;
    if (more && !find_work(problem, launch, item, &work)) continue;
    if (!more) work.last = -1;
    barrier_arrive(shared.work_full(place.stage));
    if (!more) return;
    produce_work(shared, maps, work, keys, values, queries_parity);
    place.advance();
  }
}

// The other warps: values of keys that no query of the tile sees, and which may be those of another sequence, become
// zeros. They have weight 0, but might be infinite or not a number.
template <typename T>
__device__ inline void clean(const Shared<T>& shared, const Launch& launch, int thread) {
  constexpr int kChunks = T::kSpan / 16;  // of a row of a box
  const bool leads = thread % 32 == 0;
  Place<T::kStages> values;
  for_work(shared, thread % 32, [&](const Work<T>& work) {
    if (!launch.cleans) return;
#pragma unroll 1
    for (int32_t visit = work.first; visit < work.last; visit++) {
      barrier_wait(shared.values_full(values.stage), values.parity);
      const int32_t first_key = work.tiles[visit] * T::kKeys;
      const int32_t begin = work.tiles.first_key() - first_key, end = work.tiles.end_key() - first_key;
      if (work.cleans && (begin > 0 || end < T::kKeys)) {
        const uint32_t tile = shared.values(values.stage);
#pragma unroll 1
        for (int n = thread; n < T::kKeys * kChunks; n += 32 * T::kCleaners) {
          if (n / kChunks >= begin && n / kChunks < end) continue;
#pragma unroll
          for (int box = 0; box < T::kValueBoxes; box++) {
            store_shared(tile + box * T::kKeyBoxBytes + n * 16, {0, 0, 0, 0});
          }
        }
        fence_async();
        __syncwarp();
      }
      if (leads) {
        barrier_arrive(shared.values_clean(values.stage));
        barrier_arrive(shared.values_empty(values.stage));
      }
      values.advance();
    }
  });
}

}  // namespace na::cuda::sm90
