#include "cpu/average.h"

#include <algorithm>

#include "cpu/arena.h"
#include "cpu/page_rows.h"
#include "cpu/segments.h"

namespace na::cpu {
namespace {

// Memory of a task: a key or a value, and a sum of some.
struct Space {
  Space(const na_average& average, void* memory)
      : arena(memory),
        one(arena.take<float>(std::max(average.k->shape[3], average.v->shape[3]))),
        sums(arena.take<double>(std::max(average.k->shape[3], average.v->shape[3]))) {}

  Arena arena;
  float* one;
  double* sums;
};

// A task is a segment of a key head.
class AverageJob final : public Job {
 public:
  explicit AverageJob(const na_average& average)
      : average_(average),
        keys_(*average.k, average.pages, 0),
        values_(*average.v, average.pages, average.pages.value_offset),
        heads_(average.k->shape[2]),
        list_{average.mirror, average.first, average.k->shape[0]},
        layout_(average.mirror, average.k->shape[3]),
        means_{layout_.rows, keys_.columns, values_.columns} {}

  int64_t prepare() override { return list_.count() * heads_; }

  void run(int64_t task, void* scratch, const Cancel&) override {
    const Segment at = list_.at(task / heads_);
    const int64_t head = task % heads_, first = at.segment * layout_.rows * average_.mirror.block;
    const SegmentHead of(average_.mirror, layout_, at.batch, at.segment, head);
    const Space space(average_, scratch);
    char* const to = static_cast<char*>(average_.means[at.batch][at.segment]) + head * means_.head_bytes();
    for (int64_t row = 0; row < of.used(); row++) {
      const auto write_mean = [&](const PageRows& rows, int64_t place) {
        std::fill_n(space.sums, rows.columns, 0.0);
        of.each_key(row, [&](int64_t key) {
          rows.read(rows.row(at.batch, first + key, head), space.one);
          for (int d = 0; d < rows.columns; d++) space.sums[d] += static_cast<double>(space.one[d]);
        });
        const auto count = static_cast<double>(of.key_count(row));
        auto* const mean = reinterpret_cast<float*>(to + place);
        for (int d = 0; d < rows.columns; d++) mean[d] = static_cast<float>(space.sums[d] / count);
      };
      write_mean(keys_, means_.key_at(row));
      write_mean(values_, means_.value_at(row));
    }
  }

 private:
  const na_average& average_;
  const PageRows keys_, values_;
  const int64_t heads_;
  const SegmentList list_;
  const MirrorLayout layout_;
  const MeansLayout means_;
};

}  // namespace

size_t average_scratch_bytes(const na_average& average) { return Space(average, nullptr).arena.used(); }

std::unique_ptr<Job> average_job(const na_average& average) { return std::make_unique<AverageJob>(average); }

}  // namespace na::cpu
