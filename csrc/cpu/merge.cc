#include "cpu/merge.h"

#include <cmath>
#include <limits>

#include "cpu/element.h"

namespace na::cpu {
namespace {

constexpr int64_t kRowsPerTask = 256;
constexpr int64_t kColumns = 64;
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Where row `row` (row-major over all axes of lse) begins; `rank` is that of lse.
int64_t row_offset(const na_tensor& tensor, int rank, int64_t row) {
  int64_t offset = 0;
  for (int i = rank - 1; i >= 0; i--) {
    offset += row % tensor.shape[i] * tensor.stride[i];
    row /= tensor.shape[i];
  }
  return offset;
}

// lse = max + log(sum of exp(lse_i - max)), out = sum of exp(lse_i - lse) out_i, in the order of the parts.
class MergeJob final : public Job {
 public:
  explicit MergeJob(const na_merge& merge) : merge_(merge) {}

  int64_t prepare() override {
    rows_ = 1;
    for (int i = 0; i < merge_.lse->rank; i++) rows_ *= merge_.lse->shape[i];
    return (rows_ + kRowsPerTask - 1) / kRowsPerTask;
  }

  void run(int64_t task, void*, const Cancel&) override {
    const int64_t stop = (task + 1) * kRowsPerTask < rows_ ? (task + 1) * kRowsPerTask : rows_;
    for (int64_t row = task * kRowsPerTask; row < stop; row++) merge_row(row);
  }

 private:
  float part_lse(int32_t part, int64_t row) const {
    const na_tensor& lse = *merge_.lses[part];
    return static_cast<const float*>(lse.data)[row_offset(lse, lse.rank, row)];
  }

  void merge_row(int64_t row) const {
    const na_tensor &out = *merge_.out, &lse = *merge_.lse;
    const int64_t columns = out.shape[out.rank - 1];
    float largest = kNone;
    bool nan = false;
    for (int32_t i = 0; i < merge_.count; i++) {
      const float value = part_lse(i, row);
      nan |= std::isnan(value);
      if (value > largest) largest = value;
    }
    const bool empty = largest == kNone && !nan;
    float sum = 0;
    for (int32_t i = 0; i < merge_.count && !empty; i++) sum += std::exp(part_lse(i, row) - largest);
    static_cast<float*>(lse.data)[row_offset(lse, lse.rank, row)] = empty ? kNone : largest + std::log(sum);
    const int64_t to = row_offset(out, lse.rank, row);
    for (int64_t first = 0; first < columns; first += kColumns) {
      const int64_t count = columns - first < kColumns ? columns - first : kColumns;
      float total[kColumns] = {};
      for (int32_t i = 0; i < merge_.count; i++) {
        const float weight = part_lse(i, row);
        if (weight == kNone) continue;  // an empty part counts for nothing, whatever it holds
        const na_tensor& part = *merge_.outs[i];
        const int64_t stride = part.stride[part.rank - 1], from = row_offset(part, lse.rank, row) + first * stride;
        const float share = std::exp(weight - largest) / sum;
        for (int64_t c = 0; c < count; c++) total[c] += share * load_element(part, from + c * stride);
      }
      const int64_t stride = out.stride[out.rank - 1];
      for (int64_t c = 0; c < count; c++) store_element(out, to + (first + c) * stride, total[c]);
    }
  }

  const na_merge& merge_;
  int64_t rows_ = 0;
};

}  // namespace

std::unique_ptr<Job> merge_job(const na_merge& merge) { return std::make_unique<MergeJob>(merge); }

}  // namespace na::cpu
