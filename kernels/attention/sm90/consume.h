// A consumer: a warpgroup that makes 64 rows of the output.
#pragma once

#include "attention/sm90/store.h"

namespace na::cuda::sm90 {

// Named barriers. kTurn + n: it is consumer n's turn to start products; kMeeting + n: of consumer n alone.
enum : int { kTurn = 1, kMeeting = 4 };

template <typename T>
__device__ inline void consume(const Shared<T>& shared, const Maps& maps, const Problem& problem, int consumer) {
  constexpr int kTurnThreads = 256;  // of the one whose turn begins and of the one whose turn ends
  const int thread = static_cast<int>(threadIdx.x % 128), warp = thread / 32, lane = thread % 32;
  const int next_consumer = consumer + 1 == T::kConsumers ? 0 : consumer + 1;
  const auto take_turn = [&] { named_barrier(kTurn + consumer, kTurnThreads); };
  const auto pass_turn = [&] { named_barrier_arrive(kTurn + next_consumer, kTurnThreads); };
  const auto meet = [&] { named_barrier(kMeeting + consumer, 128); };
  const auto done_with = [&](uint32_t barrier) {
    if (lane == 0) barrier_arrive(barrier);
  };

  const float factor = T::kModified ? kLog2E : problem.scale * kLog2E;
  const uint32_t own_queries = shared.queries(consumer);
  RingPlace<T::kStages> keys, values;
  uint32_t queries_parity = 0;
  if (consumer == T::kConsumers - 1) pass_turn();  // consumer 0 is first

  for_work(shared, lane, [&](const Work<T>& work) {
    typename Geometry<T>::Rows rows(problem, work, consumer, warp, lane);
    float scores[T::kKeys / 8][4], out[T::kValueDim / 8][4] = {};
    uint32_t weights[T::kKeys / 16][4];
    Softmax softmax;

    const auto start_scores = [&] {
      barrier_wait(shared.keys_full(keys.stage), keys.parity);
      rows.look(shared, keys.stage, lane);
      const uint32_t tile = shared.keys(keys.stage);
      multiply_fence();
#pragma unroll
      for (int step = 0; step < T::kHeadDim / 16; step++) {
        const int box = step * 16 / T::kBoxColumns, at = step * 16 % T::kBoxColumns * 2;
        multiply_keys<T::kElement>(scores, matrix<T::kSpan>(own_queries + box * T::kRowBoxBytes + at, 16),
                                   matrix<T::kSpan>(tile + box * T::kKeyBoxBytes + at, 16), step > 0);
      }
      multiply_commit();
    };
    const auto end_scores = [&] {
      multiply_done(scores);
      done_with(shared.keys_empty(keys.stage));
      keys.advance();
    };
    const auto start_out = [&] {
      barrier_wait(shared.values_full(values.stage), values.parity);
      if (work.cleans) barrier_wait(shared.values_clean(values.stage), values.parity);
      const uint32_t tile = shared.values(values.stage);
      multiply_fence();
#pragma unroll
      for (int step = 0; step < T::kKeys / 16; step++) {
        multiply_values<T::kElement>(out, weights[step],
                                     matrix<T::kSpan>(tile + step * 16 * T::kSpan, T::kKeyBoxBytes));
      }
      multiply_commit();
    };
    const auto end_out = [&] {
      multiply_wait<0>();
      multiply_done(out);
      multiply_done(scores);  // weights are not replaced before
      done_with(shared.values_empty(values.stage));
      values.advance();
    };
    const auto soften = [&](int32_t visit, float(&decay)[2]) {
      rows.score(scores, problem, work, visit, lane);
      softmax.update(scores, factor, decay);
    };
    const auto pack_weights = [&] {
#pragma unroll
      for (int i = 0; i < T::kKeys / 4; i++) {
        weights[i / 4][i % 4] = pack<T::kElement>(scores[i / 2][i % 2 * 2], scores[i / 2][i % 2 * 2 + 1]);
      }
    };

    const int32_t last = work.last;
    const bool works = work.first < last;
    if (works) {
      float decay[2];
      barrier_wait(shared.queries_full(consumer), queries_parity);
      queries_parity ^= 1;
      take_turn();
      start_scores();
      pass_turn();
      multiply_wait<0>();
      end_scores();
      soften(work.first, decay);
      pack_weights();
#pragma unroll 1
      for (int32_t visit = work.first + 1; visit < last; visit++) {
        take_turn();
        start_scores();
        start_out();
        pass_turn();
        multiply_wait<1>();
        end_scores();
        // Without the weights in flight there are registers for biases and caps.
        if (T::kModified) end_out();
        soften(visit, decay);
        if (!T::kModified) end_out();
#pragma unroll
        for (int i = 0; i < T::kValueDim / 2; i++) out[i / 4][i % 4] *= decay[i / 2 % 2];
        pack_weights();
      }
      if (T::kOutApart) done_with(shared.queries_empty(consumer));
      start_out();
      end_out();
    }

    int64_t index[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bool whole = problem.parts == 0;
      const float sink = whole && problem.sinks ? problem.sinks[work.head * problem.sink_stride] : -kInfinity;
      float lse;
      const float share = softmax.finish(r, T::kModified ? 1 : problem.scale, sink, &lse);
#pragma unroll
      for (int i = 0; i < T::kValueDim / 4; i++) {
        float& x = out[i / 2][2 * r + i % 2];
        x = share == 0 ? 0 : x * share;
      }
      const int64_t slot = whole ? 0 : problem.first_slot + work.part;
      index[r] = (slot * problem.batch * problem.queries + rows.token(problem, work, r)) * problem.heads + work.head;
      if (lane % 4 == 0 && rows.exists(problem, work, r)) {
        (whole ? problem.lse : problem.part_lse)[index[r]] = lse;
      }
    }

    // A tensor copy stores the tile, except where it would not stay where it belongs, where outputs are of another
    // type, and where the place of the outputs is already given to other queries.
    const bool copies = works && problem.parts == 0 && rows.copies(problem, work);
    if (copies) {
      const uint32_t to = shared.out(consumer);
      if (T::kOutApart && thread == 0) store_wait();  // for the item before
      meet();
      store_shared_out<T>(to, out, warp, lane);
      fence_async();
      meet();
      if (thread == 0) {
        rows.store(&maps.out, to, problem, work);
        store_commit();
        if (!T::kOutApart) store_wait();
      }
      __syncwarp();
    } else {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        if (!rows.exists(problem, work, r)) continue;
        store_row<T>(problem, out, r, rows.offset(problem, work, r), index[r], lane);
      }
    }
    if (!T::kOutApart && works) done_with(shared.queries_empty(consumer));
  });

  if (consumer == 0) take_turn();  // which the last one has passed
  if (thread == 0) store_wait();
}

}  // namespace na::cuda::sm90
