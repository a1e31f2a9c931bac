// One tile of attention: K and V by cp.async through a ring of slots, products by mma.sync, the softmax between them in
// registers.
//
// Who waits for whom: keys and values of the visited tiles are items 0, 1, 2 ... of a team's ring, copied by all of its
// threads. Before an item is used each thread waits for its own copies of it, then for the team. That same meeting says
// that everybody is done with the item before, whose slot is refilled right away. So there is one meeting for each
// item, and while one is multiplied, kStages - 1 are under way. Items of int8 take further ones, see byte_tile.h.
#pragma once

#include <type_traits>

#include "attention/sm80/byte_tile.h"
#include "attention/sm80/key_major.h"
#include "attention/sm80/keys.h"
#include "attention/sm80/load.h"
#include "attention/sm80/multiply.h"
#include "attention/sm80/paged_keys.h"
#include "attention/sm80/plan.h"
#include "tile/softmax.h"

namespace na::cuda {

// One operand of queries straight from memory: a lane has columns 2 * (lane % 4) and the next, and those eight further
// on, of rows lane / 4 and eight further on. Half types only.
template <typename T, typename Works>
__device__ inline void load_query(uint32_t (&q)[4], const Problem& problem, const Launch& launch, const Works& work,
                                  int row, int step, int lane) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int32_t own = row + lane / 4 + i % 2 * 8;
    const int32_t column = step * 16 + lane % 4 * 2 + i / 2 * 8;
    q[i] = 0;
    if (!work.exists(own) || column >= problem.head_dim) continue;
    const auto of = work.row(own);
    const auto* from =
        reinterpret_cast<const uint16_t*>(element_at<T>(problem.q, work.query_offset(problem, of) + column));
    if (column + 1 == problem.head_dim) {
      q[i] = *from;
    } else if (launch.q_width >= 4) {
      q[i] = *reinterpret_cast<const uint32_t*>(from);
    } else {
      q[i] = from[0] | static_cast<uint32_t>(from[1]) << 16;
    }
  }
}

// Eight columns of a row of the output, in the element's type or in float32.
template <Element kElement>
__device__ inline void store_columns(void* row, int32_t column, int32_t columns, int32_t width, const float (&x)[8]) {
  if constexpr (kElement == Element::kFloat32) {
    float* to = static_cast<float*>(row) + column;
    if (width == 16 && column + 8 <= columns) {
      reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
      reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (column + i < columns) to[i] = x[i];
    }
  } else {
    uint16_t* to = static_cast<uint16_t*>(row) + column;
    const uint32_t pairs[4] = {pack<kElement>(x[0], x[1]), pack<kElement>(x[2], x[3]), pack<kElement>(x[4], x[5]),
                               pack<kElement>(x[6], x[7])};
    if (width == 16 && column + 8 <= columns) {
      *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (column + i < columns) to[i] = static_cast<uint16_t>(pairs[i / 2] >> (i % 2 * 16));
    }
  }
}

// Eight columns of a row of the result, from sums of weighted values relative to its largest score.
template <typename T, typename Works, typename Of>
__device__ inline void store_sums(const Problem& problem, const Launch& launch, const Works& work, const Of& of,
                                  int32_t column, float maximum, float sum, float (&x)[8]) {
  const int64_t batch = work.batch(), query = work.query(problem, of);
  const bool whole = problem.parts == 0;
  const float sink = whole && problem.sinks ? problem.sinks[of.head * problem.sink_stride] : -kInfinity;
  float lse;
  const float share = normalize(maximum, sum, sink, &lse);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = share == 0 ? 0 : x[i] * share;
  const int64_t slot = whole ? 0 : problem.first_slot + work.part;
  const int64_t index = ((slot * problem.batch + batch) * problem.queries + query) * problem.heads + of.head;
  if (column == 0) (whole ? problem.lse : problem.part_lse)[index] = lse;
  if (whole) {
    char* to = static_cast<char*>(problem.out) + work.out_offset(problem, of, query) * T::kBytes;
    store_columns<T::kElement>(to, column, problem.value_dim, launch.out_width, x);
  } else {
    store_columns<Element::kFloat32>(problem.part_out + index * problem.value_dim, column, problem.value_dim,
                                     launch.out_width, x);
  }
}

// What the warps left in shared memory becomes rows of the result; teams' results are put together.
template <typename T, typename Works>
__device__ inline void store_tile(const Problem& problem, const Launch& launch, const Works& work, const float* outs,
                                  const float2* sums) {
  constexpr int kColumns = T::kValueDim / 8;
#pragma unroll 1
  for (int n = static_cast<int>(threadIdx.x); n < T::kRows * kColumns; n += T::kThreads) {
    const int32_t row = n / kColumns, column = n % kColumns * 8;
    if (!work.exists(row) || (column >= problem.value_dim && column > 0)) continue;
    float maximum = -kInfinity, sum = 0, x[8] = {};
#pragma unroll
    for (int team = 0; team < T::kTeams; team++) maximum = fmaxf(maximum, sums[row + team * T::kRows].x);
#pragma unroll
    for (int team = 0; team < T::kTeams; team++) {
      const float2 own = sums[row + team * T::kRows];
      if (own.x == -kInfinity && own.y == 0) continue;  // saw nothing
      const float weight = exp2_approximate((own.x - maximum) * kLog2E);
      const float* out = outs + (row + team * T::kRows) * T::kOutPitch + column;
      sum += own.y * weight;
#pragma unroll
      for (int i = 0; i < 8; i++) x[i] += out[i] * weight;
    }
    store_sums<T>(problem, launch, work, work.row(row), column, maximum, sum, x);
  }
}

template <typename T, bool kValues>
using BytesOf =
    ByteTile<T::kElement, T::kTeamThreads, T::kTeamKeys, (kValues ? T::kValueDim : T::kHeadDim) * T::kBytes>;

template <typename T>
using KeysOf =
    std::conditional_t<T::kGrid, GridKeys<T>,
                       std::conditional_t<T::kKeyMajor, KeyMajorKeys<T>,
                                          std::conditional_t<T::kPlan, PlanKeys<T>,
                                                             std::conditional_t<T::kPaged, PagedKeys<T>, Keys<T>>>>>;

// A tile of rows, by the keys that it visits.
template <typename T, typename Works, typename Visits>
__device__ inline void attend_tile(const Problem& problem, const Launch& launch, const Works& work, const Visits& tiles,
                                   uint8_t* memory) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int team = T::kTeams == 1 ? 0 : warp, member = T::kTeams == 1 ? thread : lane;
  const int warp_row = T::kTeams == 1 ? warp * T::kWarpRows : 0;
  const uint32_t queries = shared_address(memory), ring = queries + T::kQueryBytes + team * T::kRingBytes;
  const auto team_meets = [] {
    if constexpr (T::kTeams == 1) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  };

  int32_t visit, end;
  tiles.share(work.part, max(problem.parts, 1), &visit, &end);

  // The first queries are in the group of the first keys.
  if constexpr (!T::kQueriesInRegisters) {
    load_rows<T::kThreads, T::kRows, T::kHeadDim * T::kBytes>(
        queries, problem.q, problem.head_dim * T::kBytes, launch.q_width, thread, [&](int row) -> const char* {
          if (!work.exists(row)) return nullptr;
          return element_at<T>(problem.q, work.query_offset(problem, work.row(row)));
        });
  }

  const KeysOf<T> keys(problem, work, tiles, team);
  constexpr bool kMayBeInt8 = T::kPaged || T::kPlan;
  const bool int8 = kMayBeInt8 && problem.pages.int8;
  int32_t load_visit = visit, load_slot = 0, slot = 0;
  const auto next_slot = [](int32_t n) { return n + 1 == T::kStages ? 0 : n + 1; };
  const auto load_item = [&](auto is_values) {
    constexpr bool kValues = decltype(is_values)::value;
    constexpr int kRowBytes = (kValues ? T::kValueDim : T::kHeadDim) * T::kBytes;
    if (load_visit < end) {
      const auto rows = keys.template rows<kValues>(load_visit);
      const uint32_t to = ring + load_slot * T::kSlotBytes;
      const int columns = kValues ? problem.value_dim : problem.head_dim;
      if constexpr (kMayBeInt8) {
        if (int8) BytesOf<T, kValues>::load(to, columns, member, rows);
      }
      if (!int8) {
        load_rows<T::kTeamThreads, T::kTeamKeys, kRowBytes>(to, keys.template base<kValues>(), columns * T::kBytes,
                                                            kValues ? launch.v_width : launch.k_width, member, rows);
      }
    }
    copy_async_commit();  // also when there is nothing, so that groups and items keep in step
    load_slot = next_slot(load_slot);
    if (kValues) load_visit++;
  };
  using IsKeys = std::false_type;
  using IsValues = std::true_type;
#pragma unroll
  for (int item = 0; item < T::kStages - 1; item++) {
    if (item % 2 == 0) {
      load_item(IsKeys());
    } else {
      load_item(IsValues());
    }
  }
  // The next item that is there for the whole team, and whose slot's predecessor is refilled.
  const auto next_item = [&](auto is_values, auto loads_values) {
    copy_async_wait<T::kStages - 2>();
    team_meets();
    load_item(loads_values);
    const uint32_t address = ring + slot * T::kSlotBytes;
    slot = next_slot(slot);
    if constexpr (kMayBeInt8) {
      constexpr bool kValues = decltype(is_values)::value;
      if (int8) {
        BytesOf<T, kValues>::widen(address, kValues ? problem.value_dim : problem.head_dim, member, team_meets);
        team_meets();
      }
    }
    return address;
  };

  uint32_t q[T::kQueriesInRegisters ? T::kRowSets : 1][T::kQueriesInRegisters ? T::kHeadDim / T::kStep : 1][4];
  if constexpr (T::kQueriesInRegisters) {
#pragma unroll
    for (int set = 0; set < T::kRowSets; set++) {
#pragma unroll
      for (int step = 0; step < T::kHeadDim / T::kStep; step++) {
        load_query<T>(q[set][step], problem, launch, work, warp_row + set * 16, step, lane);
      }
    }
  } else if constexpr (T::kTeams > 1) {  // other teams' copies of queries
    copy_async_wait<T::kStages - 2>();
    __syncthreads();
  }
  using SharedQueries = SharedRows<T::kHeadDim * T::kBytes>;
  const uint32_t own_queries = queries + warp_row * T::kHeadDim * T::kBytes;
  const uint32_t own_query = SharedQueries::offset(lane % 16, lane / 16);
  const auto query = [&](int set, int step, uint32_t(&to)[4]) {
    if constexpr (T::kQueriesInRegisters) {
#pragma unroll
      for (int i = 0; i < 4; i++) to[i] = q[set][step][i];
    } else {
      load_matrix(to, own_queries + set * 16 * T::kHeadDim * T::kBytes + SharedQueries::advance(own_query, step));
    }
  };

  const bool modified = T::kGrid || T::kPlan || T::kPaged ? modifies_scores(problem) : T::kModified;
  const float factor = modified ? kLog2E : problem.scale * kLog2E;
  const bool works = work.any_from(warp_row);
  Softmax softmax[T::kRowSets];
  float out[T::kRowSets][T::kValueDim / 8][4] = {};
#pragma unroll 1
  for (; visit < end; visit++) {
    float scores[T::kRowSets][T::kTeamKeys / 8][4] = {};
    const uint32_t key_tile = next_item(IsKeys(), std::integral_constant<bool, T::kStages % 2 == 0>());
    if (works) {
      multiply_keys<T>(scores, query, key_tile, lane);
      const auto at = keys.at(visit, modified);
#pragma unroll
      for (int set = 0; set < T::kRowSets; set++) {
        const bool masked = visit >= tiles.full();
        if (modified || masked) {
          keys.score(scores[set], warp_row + set * 16 + lane / 4, at, modified, masked, lane);
        }
        float decay[2];
        softmax[set].update(scores[set], factor, decay);
        if (__any_sync(0xffffffff, decay[0] != 1 || decay[1] != 1)) {  // maxima seldom rise after the first tiles
#pragma unroll
          for (int i = 0; i < T::kValueDim / 2; i++) out[set][i / 4][i % 4] *= decay[i / 2 % 2];
        }
      }
    }
    const uint32_t value_tile = next_item(IsValues(), std::integral_constant<bool, T::kStages % 2 == 1>());
    if (works) multiply_values<T>(out, scores, value_tile, lane);
  }

  // The ring becomes the place of the results.
  copy_async_wait<0>();
  __syncthreads();
  auto* const outs = reinterpret_cast<float*>(memory);
  auto* const sums = reinterpret_cast<float2*>(memory + T::kOutBytes);
  const float scale = modified ? 1 : problem.scale;
#pragma unroll
  for (int i = 0; i < 2 * T::kRowSets; i++) {
    const int set = i / 2, r = i % 2;
    const int row = warp * T::kWarpRows + set * 16 + r * 8 + lane / 4;
    const float2 own = {softmax[set].maximum(r, scale), softmax[set].sum(r)};
    if (lane % 4 == 0) sums[row] = own;
    float* const to = outs + row * T::kOutPitch + lane % 4 * 2;
#pragma unroll
    for (int column = 0; column < T::kValueDim / 8; column++) {
      *reinterpret_cast<float2*>(to + column * 8) = {out[set][column][2 * r], out[set][column][2 * r + 1]};
    }
  }
  __syncthreads();
  if constexpr (T::kKeyMajor) {
    work.add_tile(outs, sums);
  } else {
    store_tile<T>(problem, launch, work, outs, sums);
  }
}

template <typename T>
__device__ inline void attend(const Problem& problem, const Launch& launch) {
  extern __shared__ __align__(128) uint8_t memory[];
  using Works = std::conditional_t<T::kGrid, GridWork<T>, std::conditional_t<T::kPlan, PlanWork<T>, Work<T>>>;
  Works work;
  if (!work.find(problem, launch, memory + T::kBlockAt)) return;
  attend_tile<T>(problem, launch, work, work.tiles(problem), memory);
}

// Runs of queries, one after the other, each by the blocks of keys that its queries see: the sums of a run are in
// memory between the tiles that add to them.
template <typename T>
__device__ inline void attend_by_keys(const Problem& problem, const Launch& launch) {
  extern __shared__ __align__(128) uint8_t memory[];
  auto& step = *reinterpret_cast<KeyStep<T::kRows>*>(memory + T::kBlockAt);
  for (auto item = static_cast<int32_t>(blockIdx.x); item < launch.items; item += static_cast<int32_t>(gridDim.x)) {
    KeyMajorWork<T> work(problem, launch, step);
    if (!work.find(item)) continue;
    __syncthreads();  // the sums of the run before have been read
    work.clear_sums();
    while (true) {
      __syncthreads();  // all have added to the sums, and are done with the step before
      if (threadIdx.x < 32) work.next_step(static_cast<int>(threadIdx.x));
      __syncthreads();
      if (step.count == 0) break;
      attend_tile<T>(problem, launch, work, work.tiles(problem), memory);
    }
    constexpr int kColumns = T::kValueDim / 8;
#pragma unroll 1
    for (int n = static_cast<int>(threadIdx.x); n < work.run_rows() * kColumns; n += T::kThreads) {
      const int32_t row = n / kColumns, column = n % kColumns * 8;
      if (!work.exists_in_run(row) || (column >= problem.value_dim && column > 0)) continue;
      float x[8];
      const float2 sums = work.sums_of(row, column, x);
      store_sums<T>(problem, launch, work, work.row_of_run(row), column, sums.x, sums.y, x);
    }
  }
}

// Of runs that are walked by keys, a multiprocessor has two: registers need not be spilled for a third.
template <typename T>
__global__ void __launch_bounds__(T::kThreads, T::kKeyMajor ? 2 : 0)
    attention_sm80_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Launch launch) {
  if constexpr (T::kKeyMajor) {
    attend_by_keys<T>(problem, launch);
  } else {
    attend<T>(problem, launch);
  }
}

}  // namespace na::cuda
