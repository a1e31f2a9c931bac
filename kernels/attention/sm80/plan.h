// Attention over a sparse plan: what a block works at, and the keys that it visits.
#pragma once

#include "attention/sm80/keys.h"
#include "tile/plan.h"

namespace na::cuda {

// The kernel of plans is one for unchanged and modified scores, like that of grids.
template <Element kElement, int kProducts, int kHeadDim>
struct PlanTile : Tile<kElement, kProducts, kHeadDim, kHeadDim, false, true, false> {
  static constexpr bool kPlan = true;
};

// A tile has queries of one row of the plan. Otherwise as for a sequence.
template <typename T>
struct PlanWork : Work<T> {
  __device__ bool find(const Problem& problem, const Launch& launch, uint8_t*) {
    uint32_t rest = blockIdx.x;
    const int32_t head_tile = next_digit(rest, launch.head_tiles);
    const int32_t run = next_digit(rest, problem.heads / launch.plan_heads);
    this->part = next_digit(rest, max(problem.parts, 1));
    const int32_t batch = next_digit(rest, problem.batch);
    const int32_t slot = launch.query_slots - 1 - static_cast<int32_t>(rest);
    const int32_t keys = is_paged(problem) ? cached_keys(problem.pages, batch) : problem.keys;
    this->sequence = {batch, 0, problem.queries, 0, keys, slot};
    this->packed = launch.packed;
    this->first_head = run * launch.plan_heads + head_tile * launch.packed;
    this->heads = min(launch.packed, launch.plan_heads - head_tile * launch.packed);
    this->kv_head = this->first_head / (problem.heads / problem.kv_heads);
    this->first_query = slot * launch.plan_queries;
    this->queries = min(launch.plan_queries, problem.queries - this->first_query);
    const KeyMajor& by_keys = problem.plan.by_keys;
    if (!by_keys.sights) return true;
    const int32_t tile = this->first_query >> problem.plan.query_tile;
    return by_keys.taken[pattern(problem) * by_keys.runs + tile / by_keys.run_tiles] == 0;
  }

  __device__ PlanTiles tiles(const Problem& problem) const {
    const SparseRows& plan = problem.plan;
    const int64_t row = pattern(problem) * plan.tiles + (this->first_query >> plan.query_tile);
    return PlanTiles(problem, plan.rows[row], this->sequence, this->first_query, this->first_query + this->queries - 1,
                     T::kKeys);
  }

 private:
  // Among those of all batch entries.
  __device__ int64_t pattern(const Problem& problem) const {
    const SparseRows& plan = problem.plan;
    const int32_t batch = plan.batch == 1 ? 0 : this->sequence.batch;
    return int64_t{batch} * plan.heads + this->first_head / (problem.heads / plan.heads);
  }
};

// The addresses of keys or values of a head. Whether they lie in pages is asked for each row, since kernels of their
// own would take as long again to compile.
template <typename T, bool kValues>
class PlanAddresses {
 public:
  __device__ PlanAddresses(const Problem& problem, const int32_t& batch, int32_t kv_head)
      : problem_(problem), batch_(batch) {
    const Strides& strides = kValues ? problem.v_strides : problem.k_strides;
    const int step = is_paged(problem) ? 1 : T::kBytes;  // bytes that a stride counts
    const int64_t row = batch * strides.batch + kv_head * strides.head;
    // What lies in pages has no data, and so counts from address 0.
    begin_ = static_cast<const char*>(kValues ? problem.v : problem.k) + row * step +
             (kValues ? problem.pages.value_offset : 0);
    pitch_ = strides.token * step;
  }

  // Some address.
  __device__ const void* base() const {
    if (is_paged(problem_)) return problem_.pages.tables;  // the beginning of an allocation: aligned
    return begin_;
  }

  __device__ const char* operator()(int32_t key) const {
    if (!is_paged(problem_)) return begin_ + key * pitch_;
    const int64_t* const table =
        problem_.pages.tables + batch_ * problem_.pages.pitch + (kValues ? problem_.pages.value_pages : 0);
    return in_page(table, problem_.pages.tokens, key, reinterpret_cast<int64_t>(begin_), pitch_);
  }

 private:
  const Problem& problem_;
  const int32_t& batch_;
  const char* begin_;
  int64_t pitch_;
};

// There is one team. To make addresses for each tile takes fewer registers than to keep them.
template <typename T>
class PlanKeys {
 public:
  __device__ PlanKeys(const Problem& problem, const PlanWork<T>& work, const PlanTiles& tiles, int)
      : problem_(problem), work_(work), tiles_(tiles) {}

  template <bool kValues>
  __device__ const void* base() const {
    return addresses<kValues>().base();
  }

  template <bool kValues>
  __device__ auto rows(int32_t visit) const {
    const int64_t first = int64_t{visit} * T::kKeys;
    return [this, first, address = addresses<kValues>()](int row) -> const char* {
      const int32_t key = tiles_.spot(first + row).key;
      return key >= tiles_.first_key() && key < tiles_.end_key() ? address(key) : nullptr;
    };
  }

  __device__ int32_t at(int32_t visit, bool) const { return visit; }

  template <int kColumns>
  __device__ void score(float (&scores)[kColumns][4], int32_t row, int32_t visit, bool modified, bool masked,
                        int32_t lane) const {
    const Row rows[2] = {work_.row(row), work_.row(row + 8)};
    PlanSpot spots[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; i++) spots[i] = tiles_.spot(int64_t{visit} * T::kKeys + i * 8 + lane % 4 * 2);
    if (modified) modify_spots(scores, problem_, work_.sequence, rows, spots);
    if (masked) mask_spots(scores, problem_, work_.sequence, rows, spots);
  }

 private:
  template <bool kValues>
  __device__ PlanAddresses<T, kValues> addresses() const {
    return {problem_, work_.sequence.batch, work_.kv_head};
  }

  const Problem& problem_;
  const PlanWork<T>& work_;
  const PlanTiles& tiles_;
};

}  // namespace na::cuda
