// The keys that a block visits, and what its rows see of them: of a sequence, and of a grid.
#pragma once

#include "attention/sm80/work.h"
#include "tile/grid_score.h"

namespace na::cuda {

// Each team has its share of a tile's keys.
template <typename T>
class Keys {
 public:
  __device__ Keys(const Problem& problem, const Work<T>& work, const KeyTiles& tiles, int team)
      : problem_(problem), work_(work), tiles_(tiles), team_key_(team * T::kTeamKeys) {
    const Sequence& sequence = work.sequence;
    keys_ = element_at<T>(problem.k, sequence.batch * problem.k_strides.batch + work.kv_head * problem.k_strides.head +
                                         sequence.first_key * problem.k_strides.token);
    values_ =
        element_at<T>(problem.v, sequence.batch * problem.v_strides.batch + work.kv_head * problem.v_strides.head +
                                     sequence.first_key * problem.v_strides.token);
  }

  // Some address.
  template <bool kValues>
  __device__ const char* base() const {
    return kValues ? values_ : keys_;
  }

  // A function that tells the address of each row of a visited tile, or nullptr where it is to be zero: keys that no
  // query of the tile sees.
  template <bool kValues>
  __device__ auto rows(int32_t visit) const {
    const int32_t first = at(visit, true);
    const char* const from = base<kValues>();
    const int64_t pitch = (kValues ? problem_.v_strides.token : problem_.k_strides.token) * T::kBytes;
    return [this, first, from, pitch](int row) -> const char* {
      const int32_t key = first + row;
      return key >= tiles_.first_key() && key < tiles_.end_key() ? from + key * pitch : nullptr;
    };
  }

  // The first key of a visited tile, as score() wants it.
  __device__ int32_t at(int32_t visit, bool) const { return tiles_[visit] * T::kKeys + team_key_; }

  // Products with a tile's keys become scores; `row` is the first of two, eight apart.
  template <int kColumns>
  __device__ void score(float (&scores)[kColumns][4], int32_t row, int32_t first_key, bool modified, bool masked,
                        int32_t lane) const {
    const Row rows[2] = {work_.row(row), work_.row(row + 8)};
    if (modified) modify<T::kComputesBiases>(scores, problem_, work_.sequence, rows, first_key, lane);
    if (masked) mask(scores, problem_, work_.sequence, rows, first_key, lane);
  }

 protected:
  const Problem& problem_;
  const Work<T>& work_;
  const KeyTiles& tiles_;

 private:
  const int32_t team_key_;
  const char *keys_, *values_;
};

// The same on a grid, where there is one team.
template <typename T>
class GridKeys {
 public:
  __device__ GridKeys(const Problem& problem, const GridWork<T>& work, const GridTiles& tiles, int)
      : problem_(problem), work_(work), tiles_(tiles) {
    keys_ = element_at<T>(problem.k, work.own_batch * problem.k_strides.batch + work.kv_head * problem.k_strides.head);
    values_ =
        element_at<T>(problem.v, work.own_batch * problem.v_strides.batch + work.kv_head * problem.v_strides.head);
  }

  template <bool kValues>
  __device__ const char* base() const {
    return kValues ? values_ : keys_;
  }

  template <bool kValues>
  __device__ auto rows(int32_t visit) const {
    const Grid& grid = problem_.grid;
    const auto& strides = kValues ? grid.v : grid.k;
    const Place at = tiles_[visit];
    const char* const from =
        base<kValues>() + work_.block->offset(grid, strides, work_.block->first_key(at)) * T::kBytes;
    const Used used = used_columns(grid, tiles_, at);
    return [&grid, from, used](int row) -> const char* {
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

  // The visit along each axis, where it is needed.
  __device__ Place at(int32_t visit, bool modified) const {
    if (!modified && visit < tiles_.full()) return {};
    return tiles_[visit];
  }

  template <int kColumns>
  __device__ void score(float (&scores)[kColumns][4], int32_t row, const Place& visit, bool modified, bool masked,
                        int32_t lane) const {
    const Grid& grid = problem_.grid;
    const GridBlock<T::kRows>& block = *work_.block;
    const int32_t rows[2] = {row, row + 8};
    if (modified) {
      modify_on_grid<T::kComputesBiases>(scores, problem_, block, work_.own_batch, work_.own_head, rows, visit, lane);
      if (masks_further(problem_)) mask_further(scores, problem_, block, rows, visit, lane);
    }
    if (!masked) return;
    const Sight sights[2] = {block.sight(grid, rows[0], visit), block.sight(grid, rows[1], visit)};
    mask_on_grid(scores, grid, tiles_, sights, visit, lane);
  }

 private:
  const Problem& problem_;
  const GridWork<T>& work_;
  const GridTiles& tiles_;
  const char *keys_, *values_;
};

}  // namespace na::cuda
