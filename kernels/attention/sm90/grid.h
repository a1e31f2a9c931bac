// Work at a grid: where its boxes lie in the tensors, what its rows see, and where their results go.
#pragma once

#include "attention/sm90/shared.h"
#include "tile/grid_score.h"

namespace na::cuda::sm90 {

template <typename T>
struct Boxes {
  using Visit = GridVisit;
  __device__ static Visit visit(const Work<T>& work, int32_t n) {
    const Place place = work.tiles[n];
    return {{place.at[0], place.at[1], place.at[2]}};
  }

  __device__ static void copy_queries(const Shared<T>& shared, const CUtensorMap* map, uint32_t full,
                                      const Problem& problem, const Launch& launch, const Work<T>& work, int consumer) {
#pragma unroll 1
    for (int row = 0; row < T::kOwnRows; row += launch.query_rows) {
      const Place at = query_at(problem.grid, work, consumer * T::kOwnRows + row);
#pragma unroll
      for (int box = 0; box < T::kHeadBoxes; box++) {
        copy_tensor(shared.queries(consumer) + box * T::kRowBoxBytes + row * T::kSpan, map, full, box * T::kBoxColumns,
                    work.head, at.at[2], at.at[1], at.at[0]);
      }
    }
  }

  template <int kBoxes>
  __device__ static void copy_keys(uint32_t to, const CUtensorMap* map, uint32_t full, const Problem& problem,
                                   const Launch& launch, const Work<T>& work, const Visit& visit) {
    const Place first = work.first_key({{visit.at[0], visit.at[1], visit.at[2]}});
#pragma unroll 1
    for (int row = 0; row < T::kKeys; row += launch.key_rows) {
      const Place at = in_tensor(problem.grid, work, first, place_in(problem.grid.key_box, row));
#pragma unroll
      for (int box = 0; box < kBoxes; box++) {
        copy_tensor(to + box * T::kKeyBoxBytes + row * T::kSpan, map, full, box * T::kBoxColumns, work.kv_head,
                    at.at[2], at.at[1], at.at[0]);
      }
    }
  }

  class Used {
   public:
    __device__ Used(const Shared<T>& shared, const Problem& problem, const Work<T>& work, int32_t n, int stage)
        : grid_(problem.grid), all_(n < work.tiles.full()) {
      if (all_) return;
      const GridVisit& visit = shared.values_visit(stage);
      used_ = used_columns(grid_, work.tiles, {{visit.at[0], visit.at[1], visit.at[2]}});
    }
    __device__ bool all() const { return all_; }
    __device__ bool operator()(int key) const { return uses(used_, packed(place_in(grid_.key_box, key))); }

   private:
    const Grid& grid_;
    const bool all_;
    na::cuda::Used used_;
  };

  // Of the four threads of a row, thread a knows what it sees along axis a.
  class Rows {
   public:
    __device__ Rows(const Problem& problem, const Work<T>& work, int consumer, int warp, int lane)
        : row_(consumer * T::kOwnRows + warp * 16 + lane / 4), axis_(lane % 4) {
      if (axis_ == kMostAxes) return;
      const Grid& grid = problem.grid;
      const int below = (axis_ == 0 ? grid.query_box[1] : 0) + (axis_ < 2 ? grid.query_box[2] : 0);
      const AxisQueries& own = work.queries.axes[axis_];
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int32_t i = row_ + 8 * r >> below & ((1 << grid.query_box[axis_]) - 1);
        // Rows that do not exist have the last one's windows.
        windows_[r] =
            work.tiles.axes[axis_].window(grid.neighborhoods[0].axes[axis_], own.first + min(i, own.count - 1));
      }
    }

    __device__ void look(const Shared<T>& shared, int stage, int lane) {
      visit_ = shared.keys_visit(stage).at[lane % 4];
    }

    __device__ void score(float (&scores)[T::kKeys / 8][4], const Problem& problem, const Work<T>& work, int32_t n,
                          int lane) const {
      if (n < work.tiles.full()) return;
      Place visit;
#pragma unroll
      for (int a = 0; a < kMostAxes; a++) visit.at[a] = __shfl_sync(0xffffffff, visit_, a, 4);
      const Sight sights[2] = {sight(problem.grid, work, 0), sight(problem.grid, work, 1)};
      mask_on_grid(scores, problem.grid, work.tiles, sights, visit, lane);
    }

    __device__ bool exists(const Problem& problem, const Work<T>& work, int r) const {
      return work.exists(problem.grid, row_ + 8 * r);
    }
    __device__ int64_t token(const Problem& problem, const Work<T>& work, int r) const {
      return int64_t{work.batch} * problem.queries + work.token(problem.grid, work.query(problem.grid, row_ + 8 * r));
    }
    __device__ int64_t offset(const Problem& problem, const Work<T>& work, int r) const {
      return work.batch * problem.out_strides.batch + work.head * problem.out_strides.head +
             work.offset(problem.grid, problem.grid.out, work.query(problem.grid, row_ + 8 * r));
    }

    // Not beyond X, where the next batch entry is, and not with steps, which are for loads.
    __device__ bool copies(const Problem& problem, const Work<T>& work) const {
      const Grid& grid = problem.grid;
      const Axis(&axes)[kMostAxes] = grid.neighborhoods[0].axes;
      const AxisQueries& x = work.queries.axes[0];
      return (problem.batch == 1 || x.count == 1 << grid.query_box[0]) && axes[0].dilation == 1 &&
             axes[1].dilation == 1 && axes[2].dilation == 1;
    }
    __device__ void store(const CUtensorMap* map, uint32_t from, const Problem& problem, const Work<T>& work) const {
      const Place at = query_at(problem.grid, work, row_ & ~(T::kOwnRows - 1));
#pragma unroll
      for (int box = 0; box < T::kValueBoxes; box++) {
        store_tensor(map, from + box * T::kRowBoxBytes, box * T::kBoxColumns, work.head, at.at[2], at.at[1], at.at[0]);
      }
    }

   private:
    // What row r sees of the visited tile.
    __device__ Sight sight(const Grid& grid, const Work<T>& work, int r) const {
      Sight sight = {};
      if (axis_ < kMostAxes) {
        na::cuda::look(sight, work.tiles.axes[axis_], windows_[r], visit_, grid.key_box[axis_], axis_);
      }
#pragma unroll
      for (int other = 1; other <= 2; other *= 2) {
        sight.lower |= __shfl_xor_sync(0xffffffff, sight.lower, other);
        sight.upper |= __shfl_xor_sync(0xffffffff, sight.upper, other);
        sight.flip |= __shfl_xor_sync(0xffffffff, sight.flip, other);
      }
      return sight;
    }

    const int row_, axis_;
    int32_t visit_ = 0;  // along this axis
    Interval windows_[2] = {};
  };

 private:
  // The coordinates in a tensor of a place in a box that begins at `first`.
  __device__ static Place in_tensor(const Grid& grid, const Work<T>& work, const Place& first, const Place& in) {
    Place at;
#pragma unroll
    for (int a = 0; a < kMostAxes; a++) at.at[a] = work.coordinate(grid, a, first.at[a] + in.at[a]);
    at.at[0] += work.batch * grid.extent[0];
    return at;
  }
  __device__ static Place query_at(const Grid& grid, const Work<T>& work, int row) {
    const AxisQueries(&queries)[kMostAxes] = work.queries.axes;
    return in_tensor(grid, work, {{queries[0].first, queries[1].first, queries[2].first}},
                     place_in(grid.query_box, row));
  }
};

}  // namespace na::cuda::sm90
