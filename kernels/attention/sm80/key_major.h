// A sparse plan by blocks of keys: what a run of queries works at, and the keys that it visits.
//
// Where each query selects for itself, the queries of a tile see little of what their row lists: a tile of queries
// would be multiplied by many blocks that few of them see. So it is the blocks that are walked here, ascending, and
// those queries of a run, of up to 32 rows of the plan, that see a block are gathered into tiles of rows. What they
// have summed up lies in memory. Blocks that follow each other and are seen by the same queries, as where blocks of a
// selector are larger than those of a plan, are one chain, for which queries are gathered once.
//
// Only where a bitmap shows a query all keys of a block or none. A query's sums are added up in the order of its
// blocks, and by chains, of which a run decides: results differ by rounding between runs, but never between two calls.
#pragma once

#include "attention/sm80/plan.h"
#include "tile/key_major.h"
#include "tile/softmax.h"

namespace na::cuda {

// What the threads of a block share: the tile of rows that is computed, and how far the run is.
template <int kRows>
struct KeyStep {
  int32_t first_key, end_key;  // of the chain
  int32_t count;               // queries of the tile. 0: the run is done
  uint16_t queries[kRows];     // which, ascending, counted from the first one of the run
  // Of the first warp alone.
  int64_t row;                                    // of the plan, the first one of the run
  int32_t tiles;                                  // of the run
  int32_t seeing, given;                          // queries that see the chain; how many of them have been in tiles
  int32_t at[kMostRunTiles];                      // for each row, how many of its blocks are behind
  uint32_t seen[kMostRunTiles][kMostQueryWords];  // of these queries, those of each row
};

template <Element kElement, int kProducts, int kHeadDim>
struct KeyMajorTile : PlanTile<kElement, kProducts, kHeadDim> {
  using Base = PlanTile<kElement, kProducts, kHeadDim>;
  static constexpr bool kKeyMajor = true;
  static constexpr int kSharedBytes = Base::kBlockAt + static_cast<int>(sizeof(KeyStep<Base::kRows>));
  static_assert(kSharedBytes <= 99 * 1024);
  static_assert(kSharedBytes - Base::kBlockAt <= 1024);  // as of grids
};

__device__ inline int32_t least_of_warp(int32_t n) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) n = min(n, __shfl_xor_sync(0xffffffff, n, i));
  return n;
}

// The keys of a chain, by tiles of so many.
class ChainTiles {
 public:
  // Those that some query of [first, last] sees.
  __device__ ChainTiles(const Problem& problem, const Sequence& sequence, int32_t first, int32_t last,
                        int32_t chain_first, int32_t chain_end, int32_t tile_keys) {
    const int32_t low = sequence.position(first);
    first_key_ = max(KeyTiles::from(problem, low), chain_first);
    begin_ = first_key_ - (first_key_ - chain_first) % tile_keys;
    end_key_ = min(min(KeyTiles::to(problem, sequence.position(last)), sequence.keys), chain_end);
    count_ = max(end_key_ - begin_ + tile_keys - 1, 0) / tile_keys;
    const int32_t all = min(KeyTiles::to(problem, low), end_key_);
    full_ = problem.left == kUnlimited ? max(all - begin_, 0) / tile_keys : 0;
  }

  // As for KeyTiles.
  __device__ int32_t first_key() const { return first_key_; }
  __device__ int32_t end_key() const { return end_key_; }
  __device__ int32_t full() const { return full_; }
  __device__ void share(int32_t, int32_t, int32_t* first, int32_t* last) const {
    *first = 0;
    *last = count_;
  }
  __device__ int32_t begin() const { return begin_; }

 private:
  int32_t begin_, first_key_, end_key_, count_, full_;
};

template <typename T>
class KeyMajorWork {
 public:
  int32_t kv_head, part;
  Sequence sequence;

  __device__ KeyMajorWork(const Problem& problem, const Launch& launch, KeyStep<T::kRows>& step)
      : problem_(problem), launch_(launch), step_(step) {}

  // All threads together. False: this run is walked by queries.
  __device__ bool find(int32_t item) {
    const SparseRows& plan = problem_.plan;
    auto rest = static_cast<uint32_t>(item);
    const int32_t head_tile = next_digit(rest, launch_.head_tiles);
    const int32_t group = next_digit(rest, problem_.heads / launch_.plan_heads);
    const int32_t batch = next_digit(rest, problem_.batch);
    const int32_t run = plan.by_keys.runs - 1 - static_cast<int32_t>(rest), first_tile = run * plan.by_keys.run_tiles;
    const int32_t tiles = min(plan.by_keys.run_tiles, plan.tiles - first_tile);
    first_head_ = group * launch_.plan_heads + head_tile * launch_.packed;
    heads_ = min(launch_.packed, launch_.plan_heads - head_tile * launch_.packed);
    const int64_t pattern =
        int64_t{plan.batch == 1 ? 0 : batch} * plan.heads + first_head_ / (problem_.heads / plan.heads);
    const int64_t row = pattern * plan.tiles + first_tile;
    const bool taken = walked_by_keys(plan, row, tiles);
    if (threadIdx.x == 0) plan.by_keys.taken[pattern * plan.by_keys.runs + run] = taken;
    if (!taken) return false;
    kv_head = first_head_ / (problem_.heads / problem_.kv_heads);
    part = 0;
    const int32_t keys = is_paged(problem_) ? cached_keys(problem_.pages, batch) : problem_.keys;
    sequence = {batch, 0, problem_.queries, 0, keys, 0};
    first_query_ = first_tile << plan.query_tile;
    queries_ = min(tiles << plan.query_tile, problem_.queries - first_query_);
    if (threadIdx.x == 0) {
      step_.row = row;
      step_.tiles = tiles;
    }
    return true;
  }

  // The first warp also goes back to the first blocks.
  __device__ void clear_sums() const {
    float2* const to = sums();
    for (int row = static_cast<int>(threadIdx.x); row < run_rows(); row += T::kThreads) to[row] = {-kInfinity, 0};
    if (threadIdx.x < 32) step_.at[threadIdx.x] = 0;
    if (threadIdx.x == 0) step_.seeing = step_.given = 0;
  }

  // The first warp: the next tile of queries that see the chain, or the first one of the next chain.
  __device__ void next_step(int lane) const {
    if (step_.given == step_.seeing && !next_chain(lane)) {
      if (lane == 0) step_.count = 0;
      return;
    }
    const uint32_t(&seen)[kMostQueryWords] = step_.seen[lane];
    int32_t before = 0;
#pragma unroll
    for (int word = 0; word < kMostQueryWords; word++) before += __popc(seen[word]);
    const int32_t own = before;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
      const int32_t more = __shfl_up_sync(0xffffffff, before, i);
      if (lane >= i) before += more;
    }
    const int32_t given = step_.given, count = min(T::kRows / launch_.packed, step_.seeing - given);
    int32_t index = before - own - given;
#pragma unroll 1
    for (int word = 0; word < kMostQueryWords; word++) {
#pragma unroll 1
      for (uint32_t bits = seen[word]; bits != 0; bits &= bits - 1, index++) {
        if (index < 0 || index >= count) continue;
        step_.queries[index] =
            static_cast<uint16_t>((lane << problem_.plan.query_tile) + 32 * word + __ffs(static_cast<int>(bits)) - 1);
      }
    }
    __syncwarp();  // all have read what comes now
    if (lane > 0) return;
    step_.count = count;
    step_.given = given + count;
  }

  // What was computed for the tile is added to the sums of its rows.
  __device__ void add_tile(const float* outs, const float2* tile_sums) const {
    constexpr int kColumns = T::kValueDim / 8;
#pragma unroll 1
    for (int n = static_cast<int>(threadIdx.x); n < T::kRows * kColumns; n += T::kThreads) {
      const int32_t row = n / kColumns, column = n % kColumns * 8;
      if (!exists(row) || column >= problem_.value_dim) continue;
      const int32_t place = row_in_run(row);
      const float2 own = tile_sums[row], more = sums()[place];
      if (own.x == -kInfinity && own.y == 0) continue;  // saw nothing
      const bool first = more.x == -kInfinity && more.y == 0;
      const float maximum = fmaxf(own.x, more.x);
      const float weight = exp2_approximate((own.x - maximum) * kLog2E);
      const float decay = exp2_approximate((more.x - maximum) * kLog2E);
      const float* const from = outs + row * T::kOutPitch + column;
      auto* const to = reinterpret_cast<float4*>(out_of(place) + column);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float4 x = reinterpret_cast<const float4*>(from)[i];
        float4 sum = {x.x * weight, x.y * weight, x.z * weight, x.w * weight};
        if (!first) {
          const float4 y = to[i];
          sum = {fmaf(y.x, decay, sum.x), fmaf(y.y, decay, sum.y), fmaf(y.z, decay, sum.z), fmaf(y.w, decay, sum.w)};
        }
        to[i] = sum;
      }
    }
    __syncthreads();  // all have read the sums
    const int row = static_cast<int>(threadIdx.x);
    static_assert(T::kRows <= T::kThreads);
    if (row >= T::kRows || !exists(row)) return;
    const float2 own = tile_sums[row];
    float2& sum = sums()[row_in_run(row)];
    if (own.x == -kInfinity && own.y == 0) return;
    const float maximum = fmaxf(own.x, sum.x);
    sum = {maximum,
           own.y * exp2_approximate((own.x - maximum) * kLog2E) + sum.y * exp2_approximate((sum.x - maximum) * kLog2E)};
  }

  // Rows of a tile are queries that see the chain times packed heads. Otherwise as for Work.
  __device__ ChainTiles tiles(const Problem& problem) const {
    return ChainTiles(problem, sequence, query_of(0), query_of(step_.count - 1), step_.first_key, step_.end_key,
                      T::kKeys);
  }
  __device__ int32_t batch() const { return sequence.batch; }
  __device__ bool any_from(int32_t row) const { return row < step_.count * launch_.packed; }
  __device__ bool exists(int32_t row) const {
    return row < step_.count * launch_.packed && row % launch_.packed < heads_;
  }
  __device__ Row row(int32_t row) const {
    return {query_of(min(row / launch_.packed, step_.count - 1)), first_head_ + min(row % launch_.packed, heads_ - 1)};
  }
  __device__ int64_t query(const Problem&, const Row& of) const { return of.query; }
  __device__ int64_t query_offset(const Problem& problem, const Row& of) const { return offset(problem.q_strides, of); }
  __device__ int64_t out_offset(const Problem& problem, const Row& of, int64_t) const {
    return offset(problem.out_strides, of);
  }

  // Rows of a run, likewise: all of its queries.
  __device__ int32_t run_rows() const { return queries_ * launch_.packed; }
  __device__ bool exists_in_run(int32_t row) const { return row % launch_.packed < heads_; }
  __device__ Row row_of_run(int32_t row) const {
    return {first_query_ + row / launch_.packed, first_head_ + row % launch_.packed};
  }
  // What such a row has summed up: its largest score, the sum of its weights, and eight columns.
  __device__ float2 sums_of(int32_t row, int32_t column, float (&x)[8]) const {
    const float2 sum = sums()[row];
    const bool none = (sum.x == -kInfinity && sum.y == 0) || column >= problem_.value_dim;
    const float* const from = out_of(row) + column;
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = none ? 0 : from[i];
    return sum;
  }

 private:
  // In memory, of this block of threads.
  __device__ int64_t place() const {
    const SparseRows& plan = problem_.plan;
    return int64_t{blockIdx.x} * (plan.by_keys.run_tiles << plan.query_tile) * launch_.packed;
  }
  __device__ float2* sums() const { return problem_.plan.by_keys.sums + place(); }
  __device__ float* out_of(int32_t row) const {
    return problem_.plan.by_keys.out + (place() + row) * ((problem_.value_dim + 7) / 8 * 8);
  }

  __device__ int32_t query_of(int32_t index) const { return first_query_ + step_.queries[index]; }
  __device__ int32_t row_in_run(int32_t row) const {
    return step_.queries[row / launch_.packed] * launch_.packed + row % launch_.packed;
  }
  __device__ int64_t offset(const Strides& strides, const Row& of) const {
    return sequence.batch * strides.batch + of.head * strides.head + int64_t{of.query} * strides.token;
  }

  // The queries of a lane's row that see a block.
  __device__ void see(const PlanBlock& block, int lane, uint32_t (&seen)[kMostQueryWords]) const {
    const SparseRows& plan = problem_.plan;
    const int32_t rows = 1 << plan.query_tile, there = min(rows, queries_ - (lane << plan.query_tile));
    const int32_t words = (rows + 31) / 32;
    const uint32_t* const bitmap = plan.bitmaps + (int64_t{block.bitmap} << plan.key_block) * words;
#pragma unroll
    for (int word = 0; word < kMostQueryWords; word++) {
      const int32_t count = there - 32 * word;
      seen[word] = count <= 0 ? 0 : count >= 32 ? ~0u : (1u << count) - 1;
      if (seen[word] != 0 && block.bitmap >= 0) seen[word] &= bitmap[word];
    }
  }

  // The first warp, of which each lane has a row of the plan. False: there is none.
  __device__ bool next_chain(int lane) const {
    const SparseRows& plan = problem_.plan;
    constexpr int32_t kNone = INT32_MAX;
    PlanRow own = {0, 0, 0};
    if (lane < step_.tiles) own = plan.rows[step_.row + lane];
    int32_t at = step_.at[lane];
    const auto next = [&] { return at < own.count ? plan.blocks[own.begin + at] : PlanBlock{kNone, -1}; };
    int32_t seeing = 0;
    while (seeing == 0) {
      PlanBlock block = next();
      const int32_t first = least_of_warp(block.key);
      if (first == kNone) return false;
      const bool lists = block.key == first;
      uint32_t seen[kMostQueryWords] = {};
      if (lists) see(block, lane, seen);
      int32_t end = first;
      bool goes_on;
      do {
        at += lists;
        end += 1 << plan.key_block;
        block = next();
        goes_on = (block.key == end) == lists;
        if (lists && goes_on) {
          uint32_t further[kMostQueryWords];
          see(block, lane, further);
#pragma unroll
          for (int word = 0; word < kMostQueryWords; word++) goes_on &= seen[word] == further[word];
        }
      } while (__all_sync(0xffffffff, goes_on));
#pragma unroll
      for (int word = 0; word < kMostQueryWords; word++) {
        seeing += __popc(seen[word]);
        step_.seen[lane][word] = seen[word];
      }
#pragma unroll
      for (int i = 16; i > 0; i /= 2) seeing += __shfl_xor_sync(0xffffffff, seeing, i);
      if (lane == 0) {
        step_.first_key = first;
        step_.end_key = end;
      }
    }
    step_.at[lane] = at;
    if (lane == 0) {
      step_.seeing = seeing;
      step_.given = 0;
    }
    __syncwarp();
    return true;
  }

  const Problem& problem_;
  const Launch& launch_;
  KeyStep<T::kRows>& step_;
  int32_t first_query_, queries_, first_head_, heads_;
};

// Keys of a chain, which are neighbours.
template <typename T>
class KeyMajorKeys {
 public:
  __device__ KeyMajorKeys(const Problem& problem, const KeyMajorWork<T>& work, const ChainTiles& tiles, int)
      : problem_(problem), work_(work), tiles_(tiles) {}

  template <bool kValues>
  __device__ const void* base() const {
    return addresses<kValues>().base();
  }

  template <bool kValues>
  __device__ auto rows(int32_t visit) const {
    const int32_t first = at(visit, true);
    return [this, first, address = addresses<kValues>()](int row) -> const char* {
      const int32_t key = first + row;
      return key >= tiles_.first_key() && key < tiles_.end_key() ? address(key) : nullptr;
    };
  }

  __device__ int32_t at(int32_t visit, bool) const { return tiles_.begin() + visit * T::kKeys; }

  template <int kColumns>
  __device__ void score(float (&scores)[kColumns][4], int32_t row, int32_t first_key, bool modified, bool masked,
                        int32_t lane) const {
    const Row rows[2] = {work_.row(row), work_.row(row + 8)};
    if (modified) modify<false>(scores, problem_, work_.sequence, rows, first_key, lane);
    if (!masked) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int32_t position = work_.sequence.position(rows[r].query);
      const int32_t from = KeyTiles::from(problem_, position),
                    to = min(KeyTiles::to(problem_, position), tiles_.end_key());
#pragma unroll
      for (int i = 0; i < 2 * kColumns; i++) {
        const int32_t key = first_key + i / 2 * 8 + lane % 4 * 2 + i % 2;
        if (key < from || key >= to) scores[i / 2][2 * r + i % 2] = -kInfinity;
      }
    }
  }

 private:
  template <bool kValues>
  __device__ PlanAddresses<T, kValues> addresses() const {
    return {problem_, work_.sequence.batch, work_.kv_head};
  }

  const Problem& problem_;
  const KeyMajorWork<T>& work_;
  const ChainTiles& tiles_;
};

}  // namespace na::cuda
