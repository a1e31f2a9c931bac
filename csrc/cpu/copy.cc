#include "cpu/copy.h"

#include "core/convert.h"
#include "core/dtype.h"

namespace na::cpu {
namespace {

constexpr int64_t kTaskElements = 1 << 16;

class CopyJob final : public Job {
 public:
  explicit CopyJob(const na_copy& copy) : source_(*copy.src), target_(*copy.dst) {}

  int64_t prepare() override {
    // Rows run along the last axis; a view that is contiguous on both sides is one row.
    merge_axes();
    const int last = source_.rank - 1;
    row_ = source_.shape[last];
    rows_ = 1;
    for (int i = 0; i < last; i++) rows_ *= source_.shape[i];
    if (row_ == 0 || rows_ == 0) return 0;
    pieces_ = (row_ + kTaskElements - 1) / kTaskElements;
    rows_per_task_ = pieces_ > 1 ? 1 : (kTaskElements + row_ - 1) / row_;
    return (rows_ + rows_per_task_ - 1) / rows_per_task_ * pieces_;
  }

  void run(int64_t task, void*, const Cancel&) override {
    const ConvertRow convert = convert_row(source_.dtype, target_.dtype);
    const int last = source_.rank - 1;
    const int64_t first_column = task % pieces_ * kTaskElements;
    const int64_t columns = row_ - first_column < kTaskElements ? row_ - first_column : kTaskElements;
    const int64_t first = task / pieces_ * rows_per_task_;
    const int64_t stop = first + rows_per_task_ < rows_ ? first + rows_per_task_ : rows_;
    for (int64_t row = first; row < stop; row++) {
      int64_t from = first_column * source_.stride[last], to = first_column * target_.stride[last], rest = row;
      for (int i = last - 1; i >= 0; i--) {
        const int64_t at = rest % source_.shape[i];
        rest /= source_.shape[i];
        from += at * source_.stride[i];
        to += at * target_.stride[i];
      }
      convert(static_cast<const char*>(source_.data) + from * dtype_size(source_.dtype), source_.stride[last],
              static_cast<char*>(target_.data) + to * dtype_size(target_.dtype), target_.stride[last], columns);
    }
  }

 private:
  void merge_axes() {
    na_tensor source = source_, target = target_;
    source.rank = target.rank = 0;
    for (int i = 0; i < source_.rank; i++) {
      if (source_.shape[i] == 1) continue;
      const int last = source.rank - 1;
      if (last >= 0 && source.stride[last] == source_.shape[i] * source_.stride[i] &&
          target.stride[last] == source_.shape[i] * target_.stride[i]) {
        source.shape[last] *= source_.shape[i];
        source.stride[last] = source_.stride[i];
        target.stride[last] = target_.stride[i];
        continue;
      }
      source.shape[source.rank] = source_.shape[i];
      source.stride[source.rank] = source_.stride[i];
      target.stride[source.rank++] = target_.stride[i];
    }
    if (source.rank == 0) {  // a single element
      source.shape[0] = source.stride[0] = target.stride[0] = 1;
      source.rank = 1;
    }
    target.rank = source.rank;
    source_ = source;
    target_ = target;
  }

  na_tensor source_, target_;
  int64_t row_ = 0, rows_ = 0, pieces_ = 1, rows_per_task_ = 1;
};

}  // namespace

std::unique_ptr<Job> copy_job(const na_copy& copy) { return std::make_unique<CopyJob>(copy); }

}  // namespace na::cpu
