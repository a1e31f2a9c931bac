// The producer's warpgroup: one thread starts all copies to shared memory; the other warps clean values.
#pragma once

#include "attention/sm90/band.h"
#include "attention/sm90/grid.h"

namespace na::cuda::sm90 {

template <typename T>
using Geometry = std::conditional_t<T::kGrid, Boxes<T>, Band<T>>;

template <typename T>
__device__ inline void produce_work(const Shared<T>& shared, const Maps& maps, const Problem& problem,
                                    const Launch& launch, const Work<T>& work, RingPlace<T::kStages>& keys,
                                    RingPlace<T::kStages>& values, uint32_t& queries_parity) {
  using Visit = typename Geometry<T>::Visit;
  const auto load_queries = [&] {
#pragma unroll 1
    for (int consumer = 0; consumer < T::kConsumers; consumer++) {
      barrier_wait(shared.queries_empty(consumer), queries_parity ^ 1);
      const uint32_t full = shared.queries_full(consumer);
      barrier_expect(full, T::kQueryBytes);
      Geometry<T>::copy_queries(shared, &maps.q, full, problem, launch, work, consumer);
    }
    queries_parity ^= 1;
  };
  const auto load_keys = [&](int32_t n) {
    const Visit visit = Geometry<T>::visit(work, n);
    barrier_wait(shared.keys_empty(keys.stage), keys.parity ^ 1);
    if constexpr (T::kGrid) shared.keys_visit(keys.stage) = visit;
    const uint32_t full = shared.keys_full(keys.stage);
    barrier_expect(full, T::kKeyBytes);
    Geometry<T>::template copy_keys<T::kHeadBoxes>(shared.keys(keys.stage), &maps.k, full, problem, launch, work,
                                                   visit);
    keys.advance();
  };
  // `stage` is that of the keys, which only this thread replaces.
  const auto load_values = [&](int32_t n, int stage) {
    barrier_wait(shared.values_empty(values.stage), values.parity ^ 1);
    Visit visit;
    if constexpr (T::kGrid) {
      visit = shared.values_visit(values.stage) = shared.keys_visit(stage);
    } else {
      visit = Geometry<T>::visit(work, n);
    }
    const uint32_t full = shared.values_full(values.stage);
    barrier_expect(full, T::kValueBytes);
    Geometry<T>::template copy_keys<T::kValueBoxes>(shared.values(values.stage), &maps.v, full, problem, launch, work,
                                                    visit);
    values.advance();
  };
  // In the order in which consumers need them and stages become free: keys are one tile ahead of values.
  int before = 0;
#pragma unroll 1
  for (int32_t n = work.first; n < work.last; n++) {
    const int stage = keys.stage;
    load_keys(n);
    if (n == work.first) {
      load_queries();
    } else {
      load_values(n - 1, before);
    }
    before = stage;
  }
  if (work.first < work.last) load_values(work.last - 1, before);
}

// One thread: announces one item of work after the other, and starts its copies.
template <typename T>
__device__ inline void produce(const Shared<T>& shared, const Maps& maps, const Problem& problem,
                               const Launch& launch) {
  const auto block = static_cast<int32_t>(blockIdx.x);
  RingPlace<T::kStages> keys, values;
  uint32_t announced = 0;  // works, which take two places in turns
  uint32_t queries_parity = 0;
#pragma unroll 1
  for (int32_t round = 0;; round++) {
    const int32_t item = round * launch.blocks + (round % 2 == 0 ? block : launch.blocks - 1 - block);
    const int place = static_cast<int>(announced % 2);
    barrier_wait(shared.work_empty(place), (announced / 2 % 2) ^ 1);
    Work<T>& work = shared.work(place);
    const bool more = item < launch.items;
    if (more && !find_work(problem, launch, item, &work)) continue;
    if (!more) work.last = -1;
    barrier_arrive(shared.work_full(place));
    if (!more) return;
    produce_work(shared, maps, problem, launch, work, keys, values, queries_parity);
    announced++;
  }
}

// The other warps: values of keys that no query of the tile sees, and which may be those of another sequence, become
// zeros. They have weight 0, but might be infinite or not a number.
template <typename T>
__device__ inline void clean(const Shared<T>& shared, const Problem& problem, const Launch& launch, int thread) {
  constexpr int kChunks = T::kSpan / 16;  // of a row of a box
  const bool leads = thread % 32 == 0;
  RingPlace<T::kStages> values;
  for_work(shared, thread % 32, [&](const Work<T>& work) {
    if (!launch.cleans) return;
#pragma unroll 1
    for (int32_t visit = work.first; visit < work.last; visit++) {
      barrier_wait(shared.values_full(values.stage), values.parity);
      const typename Geometry<T>::Used used(shared, problem, work, visit, values.stage);
      if (work.cleans && !used.all()) {
        const uint32_t tile = shared.values(values.stage);
#pragma unroll 1
        for (int n = thread; n < T::kKeys * kChunks; n += 32 * T::kCleaners) {
          if (used(n / kChunks)) continue;
#pragma unroll
          for (int box = 0; box < T::kValueBoxes; box++) {
            store_shared(tile + box * T::kKeyBoxBytes + n * 16, {0, 0, 0, 0});
          }
        }
        fence_async();
      }
      __syncwarp();  // all lanes have looked at the stage
      if (leads) {
        barrier_arrive(shared.values_clean(values.stage));
        barrier_arrive(shared.values_empty(values.stage));
      }
      values.advance();
    }
  });
}

}  // namespace na::cuda::sm90
