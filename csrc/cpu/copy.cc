#include "cpu/copy.h"

#include "core/strided.h"

namespace na::cpu {
namespace {

constexpr int64_t kTaskElements = 1 << 16;

class CopyJob final : public Job {
 public:
  explicit CopyJob(const na_copy& copy) : copy_(*copy.src, *copy.dst) {}

  int64_t prepare() override { return (copy_.elements() + kTaskElements - 1) / kTaskElements; }

  void run(int64_t task, void*, const Cancel&) override {
    const int64_t first = task * kTaskElements, rest = copy_.elements() - first;
    copy_.run(first, first + (rest < kTaskElements ? rest : kTaskElements));
  }

 private:
  const StridedCopy copy_;
};

}  // namespace

std::unique_ptr<Job> copy_job(const na_copy& copy) { return std::make_unique<CopyJob>(copy); }

}  // namespace na::cpu
