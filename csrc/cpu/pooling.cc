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
    std::vector<float> made(static_cast<size_t>(features));
    for (int64_t head = 0; head < heads; head++) {
      // Row by row, as memory lies.
      const auto fold = [&](float* to, float from, const auto& with) {
        for (int d = 0; d < rows_.head_dim; d++) to[d] = from;
        for (int64_t token = first; token < end; token++) {
          const char* row = rows_.row(batch, token, head);
          for (int d = 0; d < rows_.head_dim; d++) {
            Type value;
            memcpy(&value, row + d * static_cast<int64_t>(sizeof(Type)), sizeof(Type));
            to[d] = with(to[d], static_cast<float>(widen(value)));
          }
        }
      };
      constexpr float kInfinity = std::numeric_limits<float>::infinity();
      const auto larger = [](float a, float b) { return b > a ? b : a; };
      const auto smaller = [](float a, float b) { return b < a ? b : a; };
      const bool bounds = pool_.pooling == NA_POOL_BOUNDS;
      if (pool_.pooling == NA_POOL_MEAN) {
        // A block is a power of two: dividing by it first is exact, and no sum overflows where the mean does not.
        const float share = 1.0f / static_cast<float>(pool_.block);
        fold(made.data(), 0, [share](float a, float b) { return a + b * share; });
        for (float& sum : made) sum /= static_cast<float>(end - first) * share;
      }
      if (pool_.pooling == NA_POOL_MAX || bounds) fold(made.data(), -kInfinity, larger);
      if (pool_.pooling == NA_POOL_MIN || bounds) fold(made.data() + (bounds ? rows_.head_dim : 0), kInfinity, smaller);
      store(made, (task * heads + head) * features);
    }
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
