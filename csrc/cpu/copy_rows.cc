#include "cpu/copy_rows.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace na::cpu {
namespace {

constexpr int64_t kTaskBytes = 1 << 18;

class CopyRowsJob final : public Job {
 public:
  explicit CopyRowsJob(const na_copy_rows& copy) : copy_(copy) {}

  int64_t prepare() override {
    int64_t rows = 0;
    for (int64_t run = 0; run < copy_.run_count; run++) {
      if (begins_.empty() || (rows - begins_.back().row) * copy_.row_bytes >= kTaskBytes)
        begins_.push_back({run, rows});
      rows += copy_.runs[run].rows;
    }
    return static_cast<int64_t>(begins_.size());
  }

  void run(int64_t task, void*, const Cancel&) override {
    const auto next = static_cast<size_t>(task) + 1;
    const int64_t end = next < begins_.size() ? begins_[next].run : copy_.run_count;
    const Begin& begin = begins_[static_cast<size_t>(task)];
    char* bytes = static_cast<char*>(copy_.bytes->data) + begin.row * copy_.row_bytes;
    for (int64_t run = begin.run; run < end; run++) {
      char* row = static_cast<char*>(copy_.runs[run].data);
      // Rows that lie side by side are one.
      const bool dense = copy_.pitch == copy_.row_bytes;
      const int64_t count = dense ? 1 : copy_.runs[run].rows;
      const int64_t size = dense ? copy_.runs[run].rows * copy_.row_bytes : copy_.row_bytes;
      for (int64_t i = 0; i < count; i++, row += copy_.pitch, bytes += size) {
        std::memcpy(copy_.write ? row : bytes, copy_.write ? bytes : row, static_cast<size_t>(size));
      }
    }
  }

 private:
  struct Begin {
    int64_t run, row;
  };
  const na_copy_rows& copy_;
  std::vector<Begin> begins_;  // of each task: its first run, and the rows before it
};

}  // namespace

std::unique_ptr<Job> copy_rows_job(const na_copy_rows& copy) { return std::make_unique<CopyRowsJob>(copy); }

}  // namespace na::cpu
