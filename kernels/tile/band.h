// The key tiles that a query tile visits: first those that all of its queries see whole, which need no mask, then the
// partial ones.
#pragma once

#include "tile/sequence.h"

namespace na::cuda {

// Tiles [begin, end) are visited; of these, [full_begin, full_end) are seen whole by every query of the tile.
class KeyTiles {
 public:
  KeyTiles() = default;

  // Of the queries [first, last] of the sequence.
  __device__ KeyTiles(const Problem& problem, const Sequence& sequence, int32_t first, int32_t last,
                      int32_t tile_keys) {
    const int32_t low = sequence.position(first), high = sequence.position(last), keys = sequence.keys;
    // The keys that any query sees, and those that all see: [from, to).
    const int32_t any_from = clamp(from(problem, low), keys), any_to = clamp(to(problem, high), keys);
    const int32_t all_from = clamp(from(problem, high), keys), all_to = clamp(to(problem, low), keys);
    first_key_ = any_from;
    end_key_ = max(any_to, any_from);
    begin_ = any_from / tile_keys;
    end_ = any_to > any_from ? (any_to + tile_keys - 1) / tile_keys : begin_;
    full_begin_ = min((all_from + tile_keys - 1) / tile_keys, end_);
    full_end_ = max(all_to / tile_keys, full_begin_);
    if (full_begin_ == full_end_) full_begin_ = full_end_ = begin_;
  }

  // The keys [first_key(), end_key()) are seen by some query of the tile. No other key of a visited tile may have any
  // influence: its values are to be zeroed, since its weight of 0 does not undo a NaN.
  __device__ int32_t first_key() const { return first_key_; }
  __device__ int32_t end_key() const { return end_key_; }

  __device__ int32_t count() const { return end_ - begin_; }
  __device__ int32_t full() const { return full_end_ - full_begin_; }

  // The n-th tile to visit; the first full() need no mask.
  __device__ int32_t operator[](int32_t n) const {
    if (n < full()) return full_begin_ + n;
    const int32_t partial = begin_ + n - full();
    return partial < full_begin_ ? partial : partial + full();
  }

  // The first and one past the last visit of part `part` of `parts`.
  __device__ void share(int32_t part, int32_t parts, int32_t* first, int32_t* last) const {
    const int64_t n = count();
    *first = static_cast<int32_t>(n * part / parts);
    *last = static_cast<int32_t>(n * (part + 1) / parts);
  }

  // The keys that the query at a position sees: [from, to), before they are clamped to those that exist.
  __device__ static int32_t from(const Problem& problem, int32_t position) {
    return problem.left == kUnlimited ? 0 : position - min(problem.left, kFar);
  }
  __device__ static int32_t to(const Problem& problem, int32_t position) {
    return problem.right == kUnlimited ? kFar : position + min(problem.right, kFar - 1) + 1;
  }

 private:
  static constexpr int32_t kFar = 1 << 30;  // no sequence is longer, so that sums of positions stay within 32 bits
  __device__ static int32_t clamp(int32_t key, int32_t keys) { return min(max(key, 0), keys); }

  int32_t first_key_, end_key_, begin_, end_, full_begin_, full_end_;
};

}  // namespace na::cuda
