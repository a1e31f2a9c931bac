// The key tiles that a block visits, and what its rows see of them: of a sequence, and of a grid.
#pragma once

#include "attention/sm80/work.h"

namespace na::cuda {

template <typename T>
__device__ inline const char* element_at(const void* tensor, int64_t index) {
  return static_cast<const char*>(tensor) + index * T::kBytes;
}

// Each team has its share of a tile's keys.
template <typename T>
class Keys {
 public:
  __device__ Keys(const Problem& problem, const Launch&, const Work<T>& work, int team)
      : problem_(problem),
        work_(work),
        team_key_(team * T::kTeamKeys),
        tiles_(problem, work.sequence, work.first_query, work.first_query + work.queries - 1, T::kKeys) {
    const Sequence& sequence = work.sequence;
    const auto first = [&](const void* tensor, const Strides& strides) {
      return element_at<T>(
          tensor, sequence.batch * strides.batch + work.kv_head * strides.head + sequence.first_key * strides.token);
    };
    keys_ = first(problem.k, problem.k_strides);
    values_ = first(problem.v, problem.v_strides);
  }

  __device__ void share(int32_t* visit, int32_t* end) const {
    tiles_.share(work_.part, max(problem_.parts, 1), visit, end);
  }

  // The first full() visits need no mask.
  __device__ int32_t full() const { return tiles_.full(); }

  // Some address, and a function that tells that of each row, or nullptr where it is to be zero: keys that no query of
  // the tile sees.
  template <bool kValues>
  __device__ const char* base() const {
    return kValues ? values_ : keys_;
  }
  template <bool kValues>
  __device__ auto rows(int32_t visit) const {
    const int32_t first = first_key(visit);
    const char* const from = base<kValues>();
    const int64_t pitch = (kValues ? problem_.v_strides.token : problem_.k_strides.token) * T::kBytes;
    const int32_t first_used = tiles_.first_key(), end_used = tiles_.end_key();
    return [=](int row) -> const char* {
      const int32_t key = first + row;
      return key >= first_used && key < end_used ? from + key * pitch : nullptr;
    };
  }

  // Products with a tile's keys become scores; `row` is the first of two, eight apart.
  template <int kColumns>
  __device__ void score(float (&scores)[kColumns][4], int32_t row, int32_t visit, int32_t lane) const {
    const Row rows[2] = {work_.row(row), work_.row(row + 8)};
    if (T::kModified) modify(scores, problem_, work_.sequence, rows, first_key(visit), lane);
    if (visit >= full()) mask(scores, problem_, work_.sequence, rows, first_key(visit), lane);
  }

 private:
  __device__ int32_t first_key(int32_t visit) const { return tiles_[visit] * T::kKeys + team_key_; }

  const Problem& problem_;
  const Work<T>& work_;
  const int32_t team_key_;
  const KeyTiles tiles_;
  const char *keys_, *values_;
};

template <typename T>
class GridKeys {
 public:
  __device__ GridKeys(const Problem& problem, const Launch& launch, const GridWork<T>& work, int)
      : problem_(problem), work_(work), modified_(launch.modified) {
    const auto first = [&](const void* tensor, const Strides& strides) {
      return element_at<T>(tensor, work.own_batch * strides.batch + work.kv_head * strides.head);
    };
    keys_ = first(problem.k, problem.k_strides);
    values_ = first(problem.v, problem.v_strides);
  }

  __device__ void share(int32_t* visit, int32_t* end) const {
    tiles().share(work_.part, max(problem_.parts, 1), visit, end);
  }

  __device__ int32_t full() const { return tiles().full(); }

  template <bool kValues>
  __device__ const char* base() const {
    return kValues ? values_ : keys_;
  }
  template <bool kValues>
  __device__ auto rows(int32_t visit) const {
    const Grid& grid = problem_.grid;
    const auto& strides = kValues ? grid.v : grid.k;
    const Place at = tiles()[visit];
    const char* const from =
        base<kValues>() + work_.block->offset(grid, strides, work_.block->first_key(at)) * T::kBytes;
    const Used used = used_columns(grid, tiles(), at);
    return [=, &grid](int row) -> const char* {
      const Place in = place_in(grid.key_box, row);
      if (!uses(used, packed(in))) return nullptr;
      int64_t offset = 0;
#pragma unroll
      for (int a = 0; a < kMostAxes; a++) {
        offset += in.at[a] * (grid.neighborhoods[0].axes[a].dilation * (kValues ? grid.v : grid.k)[a]);
      }
      return from + offset * T::kBytes;
    };
  }

  template <int kColumns>
  __device__ void score(float (&scores)[kColumns][4], int32_t row, int32_t visit, int32_t lane) const {
    const int32_t rows[2] = {row, row + 8};
    const Place at = tiles()[visit];
    if (modified_) {
      modify_on_grid(scores, problem_, *work_.block, work_.own_batch, work_.own_head, rows, at, lane);
      if (masks_further(problem_)) mask_further(scores, problem_, *work_.block, rows, at, lane);
    }
    if (visit < full()) return;
    const Grid& grid = problem_.grid;
    const Sight sights[2] = {work_.block->sight(grid, rows[0], at), work_.block->sight(grid, rows[1], at)};
    mask_on_grid(scores, grid, tiles(), sights, at, lane);
  }

 private:
  __device__ const GridTiles& tiles() const { return work_.block->tiles; }

  const Problem& problem_;
  const GridWork<T>& work_;
  const bool modified_;
  const char *keys_, *values_;
};

}  // namespace na::cuda
