#include "cpu/pooling.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "core/narrow.h"
#include "cpu/page_rows.h"
#include "cpu/summary_rows.h"

namespace na::cpu {
namespace {

// A task is a block, all heads of it.
class PoolJob final : public Job {
 public:
  explicit PoolJob(const na_pool& pool) : pool_(pool), rows_(*pool.k), out_(pool.out) {
    if (pool.pages) paged_.emplace(*pool.k, *pool.pages, pool.page_offset);
    for (int axis = 1; axis < pool.k->rank - 2; axis++) tokens_ *= pool.k->shape[axis];
  }

  int64_t prepare() override {
    tasks_.push_back(0);
    for (int64_t batch = 0; batch < pool_.k->shape[0]; batch++) {
      const int64_t blocks = (tokens_of(batch) + pool_.block - 1) / pool_.block;
      tasks_.push_back(tasks_.back() + blocks - first_block(batch));
    }
    return tasks_.back();
  }

  void run(int64_t task, void*, const Cancel&) override {
    with_type(rows_.dtype, [&](auto* type) { pool<std::remove_pointer_t<decltype(type)>>(task); });
  }

 private:
  int64_t tokens_of(int64_t batch) const { return pool_.pages ? pool_.pages->lengths[batch] : tokens_; }
  // Those before it are there.
  int64_t first_block(int64_t batch) const { return pool_.first ? pool_.first[batch] * pool_.out.segment_blocks : 0; }

  template <class Type>
  void pool(int64_t task) const {
    const int64_t batch = std::upper_bound(tasks_.begin(), tasks_.end(), task) - tasks_.begin() - 1;
    const int64_t block = first_block(batch) + task - tasks_[static_cast<size_t>(batch)];
    const int64_t heads = pool_.out.rest->shape[2], features = pool_.out.rest->shape[3];
    const int64_t first = block * pool_.block, end = std::min(first + pool_.block, tokens_of(batch));
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
      store(made, out_.row(batch, block) + head * out_.head);
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
      const char* row = paged_ ? paged_->row(batch, token, head) : rows_.row(batch, token, head);
      const char* from = row + column * static_cast<int64_t>(sizeof(Type));
      Type some[kColumns] = {};
      if (paged_ && paged_->int8) {
        widen_int8(row, rows_.head_dim, column, count, some);
      } else if (count == kColumns) {
        memcpy(some, from, sizeof(some));
      } else {
        memcpy(some, from, static_cast<size_t>(count) * sizeof(Type));
      }
      float values[kColumns];
      for (int i = 0; i < kColumns; i++) values[i] = static_cast<float>(widen(some[i]));
      for (int i = 0; i < kColumns; i++) folded.sum[i] += values[i] * share;
      for (int i = 0; i < kColumns; i++) folded.most[i] = values[i] > folded.most[i] ? values[i] : folded.most[i];
      for (int i = 0; i < kColumns; i++) folded.least[i] = values[i] < folded.least[i] ? values[i] : folded.least[i];
    }
    return folded;
  }

  void store(const std::vector<float>& made, char* row) const {
    with_type(pool_.out.rest->dtype, [&](auto* type) {
      using Type = std::remove_pointer_t<decltype(type)>;
      auto* to = reinterpret_cast<Type*>(row);
      for (size_t d = 0; d < made.size(); d++) to[d] = narrow<Type>(made[d]);
    });
  }

  const na_pool& pool_;
  const TokenRows rows_;           // without pages
  std::optional<PageRows> paged_;  // with them
  const SummaryRows out_;
  int64_t tokens_ = 1;          // of each batch entry, without pages
  std::vector<int64_t> tasks_;  // of each batch entry: the first
};

}  // namespace

std::unique_ptr<Job> pool_job(const na_pool& pool) { return std::make_unique<PoolJob>(pool); }

}  // namespace na::cpu
