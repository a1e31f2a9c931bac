#include "cpu/pooling.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "core/narrow.h"

namespace na::cpu {
namespace {

// A task is a block, all heads of it.
class PoolJob final : public Job {
 public:
  explicit PoolJob(const na_pool& pool) : pool_(pool), rows_(*pool.k) {
    tokens_ = 1;
    for (int axis = 1; axis < pool.k->rank - 2; axis++) tokens_ *= pool.k->shape[axis];
  }

  int64_t prepare() override { return pool_.out->shape[0] * pool_.out->shape[1]; }

  void run(int64_t task, void*, const Cancel&) override {
    with_type(rows_.dtype, [&](auto* type) { pool<std::remove_pointer_t<decltype(type)>>(task); });
  }

 private:
  template <class Type>
  void pool(int64_t task) const {
    const int64_t blocks = pool_.out->shape[1], heads = pool_.out->shape[2], features = pool_.out->shape[3];
    const int64_t batch = task / blocks, first = task % blocks * pool_.block;
    const int64_t end = std::min(first + pool_.block, tokens_);
    const float filled = static_cast<float>(end - first) / static_cast<float>(pool_.block);
    std::vector<float> made(static_cast<size_t>(features));
    for (int64_t head = 0; head < heads; head++) {
      for (int column = 0; column < rows_.head_dim; column += kColumns) {
        const int count = std::min(kColumns, rows_.head_dim - column);
        const Folded folded = fold<Type>(batch, head, first, end, column, count);
        for (int i = 0; i < count; i++) {
          float* to = made.data() + column + i;
          switch (pool_.pooling) {
            case NA_POOL_MEAN: *to = folded.sum[i] / filled; break;
            case NA_POOL_MAX: *to = folded.most[i]; break;
            case NA_POOL_MIN: *to = folded.least[i]; break;
            default: *to = folded.most[i]; to[rows_.head_dim] = folded.least[i];
          }
        }
      }
      store(made, (task * heads + head) * features);
    }
  }

  // Of some columns, as many as compilers keep in registers.
  static constexpr int kColumns = 16;
  struct Folded {
    float sum[kColumns], most[kColumns], least[kColumns];
  };

  template <class Type>
  Folded fold(int64_t batch, int64_t head, int64_t first, int64_t end, int column, int count) const {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    // A block is a power of two: dividing by it first is exact, and no sum overflows where the mean does not.
    const float share = 1.0f / static_cast<float>(pool_.block);
    Folded folded;
    for (int i = 0; i < kColumns; i++) {
      folded.sum[i] = 0;
      folded.most[i] = -kInfinity;
      folded.least[i] = kInfinity;
    }
    for (int64_t token = first; token < end; token++) {
      const char* row = rows_.row(batch, token, head) + column * static_cast<int64_t>(sizeof(Type));
      Type some[kColumns] = {};
      if (count == kColumns) {
        memcpy(some, row, sizeof(some));
      } else {
        memcpy(some, row, static_cast<size_t>(count) * sizeof(Type));
      }
      float values[kColumns];
      for (int i = 0; i < kColumns; i++) values[i] = static_cast<float>(widen(some[i]));
      for (int i = 0; i < kColumns; i++) folded.sum[i] += values[i] * share;
      for (int i = 0; i < kColumns; i++) folded.most[i] = values[i] > folded.most[i] ? values[i] : folded.most[i];
      for (int i = 0; i < kColumns; i++) folded.least[i] = values[i] < folded.least[i] ? values[i] : folded.least[i];
    }
    return folded;
  }

  void store(const std::vector<float>& made, int64_t at) const {
    with_type(pool_.out->dtype, [&](auto* type) {
      using Type = std::remove_pointer_t<decltype(type)>;
      auto* to = static_cast<Type*>(pool_.out->data) + at;
      for (size_t d = 0; d < made.size(); d++) to[d] = narrow<Type>(made[d]);
    });
  }

  const na_pool& pool_;
  const TokenRows rows_;
  int64_t tokens_;
};

}  // namespace

std::unique_ptr<Job> pool_job(const na_pool& pool) { return std::make_unique<PoolJob>(pool); }

}  // namespace na::cpu
