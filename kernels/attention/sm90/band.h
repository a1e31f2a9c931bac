// Work at a sequence: where its tiles lie in the tensors, what its rows see, and where their results go.
#pragma once

#include "attention/sm90/shared.h"
#include "tile/score.h"

namespace na::cuda::sm90 {

template <typename T>
struct Band {
  // The first key of a tile, of the sequence.
  using Visit = int32_t;
  __device__ static Visit visit(const Work<T>& work, int32_t n) { return work.tiles[n] * T::kKeys; }

  __device__ static void copy_queries(const Shared<T>& shared, const CUtensorMap* map, uint32_t full, const Problem&,
                                      const Launch&, const Work<T>& work, int consumer) {
#pragma unroll
    for (int box = 0; box < T::kHeadBoxes; box++) {
      copy_tensor(shared.queries(consumer) + box * T::kRowBoxBytes, map, full, box * T::kBoxColumns, work.head,
                  work.sequence.first_query + work.first_query + consumer * T::kOwnRows, work.sequence.batch);
    }
  }

  // Of keys or of values.
  template <int kBoxes>
  __device__ static void copy_keys(uint32_t to, const CUtensorMap* map, uint32_t full, const Problem&, const Launch&,
                                   const Work<T>& work, Visit first_key) {
#pragma unroll
    for (int box = 0; box < kBoxes; box++) {
      copy_tensor(to + box * T::kKeyBoxBytes, map, full, box * T::kBoxColumns, work.kv_head,
                  work.sequence.first_key + first_key, work.sequence.batch);
    }
  }

  // Which keys of a tile some query of the query tile sees.
  class Used {
   public:
    __device__ Used(const Shared<T>&, const Problem&, const Work<T>& work, int32_t n, int) {
      const int32_t first_key = visit(work, n);
      begin_ = work.tiles.first_key() - first_key;
      end_ = work.tiles.end_key() - first_key;
    }
    __device__ bool all() const { return begin_ <= 0 && end_ >= T::kKeys; }
    __device__ bool operator()(int key) const { return key >= begin_ && key < end_; }

   private:
    int32_t begin_, end_;
  };

  // The two rows of a consumer's thread.
  class Rows {
   public:
    __device__ Rows(const Problem&, const Work<T>& work, int consumer, int warp, int lane)
        : first_(work.first_query + consumer * T::kOwnRows) {
      rows_[0] = {first_ + warp * 16 + lane / 4, work.head};
      rows_[1] = {rows_[0].query + 8, work.head};
    }

    // To be called while the keys of the tile that is scored next are there.
    __device__ void look(const Shared<T>&, int, int) {}

    __device__ void score(float (&scores)[T::kKeys / 8][4], const Problem& problem, const Work<T>& work, int32_t n,
                          int lane) const {
      const int32_t first_key = visit(work, n);
      if (T::kModified) modify<T::kComputesBiases>(scores, problem, work.sequence, rows_, first_key, lane);
      if (n >= work.tiles.full()) mask(scores, problem, work.sequence, rows_, first_key, lane);
    }

    __device__ bool exists(const Problem&, const Work<T>& work, int r) const {
      return rows_[r].query < work.sequence.queries;
    }

    // The row of the result, of all batch entries.
    __device__ int64_t token(const Problem& problem, const Work<T>& work, int r) const {
      return int64_t{work.sequence.batch} * problem.queries + work.sequence.first_query + rows_[r].query;
    }
    // Elements to it.
    __device__ int64_t offset(const Problem& problem, const Work<T>& work, int r) const {
      const Strides& strides = problem.out_strides;
      return work.sequence.batch * strides.batch + work.head * strides.head +
             int64_t{work.sequence.first_query + rows_[r].query} * strides.token;
    }

    // Whether the copy of all rows stays where it belongs: not if it would reach into the next packed sequence.
    __device__ bool copies(const Problem& problem, const Work<T>& work) const {
      return !problem.cu_q || first_ + T::kOwnRows <= work.sequence.queries;
    }
    __device__ void store(const CUtensorMap* map, uint32_t from, const Problem&, const Work<T>& work) const {
#pragma unroll
      for (int box = 0; box < T::kValueBoxes; box++) {
        store_tensor(map, from + box * T::kRowBoxBytes, box * T::kBoxColumns, work.head,
                     work.sequence.first_query + first_, work.sequence.batch);
      }
    }

   private:
    const int32_t first_;
    Row rows_[2];
  };
};

}  // namespace na::cuda::sm90
