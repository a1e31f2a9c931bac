#include "cpu/rotate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/element.h"

namespace na::cpu {
namespace {

constexpr int64_t kTaskTokens = 16;

class RotateJob final : public Job {
 public:
  explicit RotateJob(const na_rotate& rotate) : rotate_(rotate) {}

  int64_t prepare() override {
    tasks_each_ = (rotate_.src->shape[1] + kTaskTokens - 1) / kTaskTokens;
    // Angles in double: positions go up to 2^30, and a float32 product would be off by whole turns.
    for (int64_t j = 0; j < rotate_.columns / 2; j++) {
      turns_.push_back(std::pow(rotate_.theta, -2.0 * static_cast<double>(j) / static_cast<double>(rotate_.columns)));
    }
    return rotate_.src->shape[0] * tasks_each_;
  }

  void run(int64_t task, void*, const Cancel&) override {
    const int64_t batch = task / tasks_each_, begin = task % tasks_each_ * kTaskTokens;
    const int64_t end = std::min(begin + kTaskTokens, rotate_.src->shape[1]);
    std::vector<float> cosines(turns_.size()), sines(turns_.size());
    for (int64_t token = begin; token < end; token++) {
      for (size_t j = 0; j < turns_.size(); j++) {
        const double angle = static_cast<double>(rotate_.first[batch] + token) * turns_[j];
        cosines[j] = static_cast<float>(std::cos(angle));
        sines[j] = static_cast<float>(std::sin(angle));
      }
      for (int64_t head = 0; head < rotate_.src->shape[2]; head++) rotate_row(batch, token, head, cosines, sines);
    }
  }

 private:
  void rotate_row(int64_t batch, int64_t token, int64_t head, const std::vector<float>& cosines,
                  const std::vector<float>& sines) const {
    const na_tensor &src = *rotate_.src, &dst = *rotate_.dst;
    const auto row = [&](const na_tensor& tensor) {
      return batch * tensor.stride[0] + token * tensor.stride[1] + head * tensor.stride[2];
    };
    const int64_t from = row(src), to = row(dst), half = rotate_.columns / 2;
    for (int64_t j = 0; j < half; j++) {
      const int64_t low = rotate_.interleaved ? 2 * j : j, high = rotate_.interleaved ? 2 * j + 1 : j + half;
      const float x = load_element(src, from + low), y = load_element(src, from + high);
      store_element(dst, to + low, x * cosines[j] - y * sines[j]);
      store_element(dst, to + high, x * sines[j] + y * cosines[j]);
    }
    for (int64_t d = rotate_.columns; d < src.shape[3]; d++) store_element(dst, to + d, load_element(src, from + d));
  }

  const na_rotate& rotate_;
  int64_t tasks_each_ = 0;
  std::vector<double> turns_;  // radians a position
};

}  // namespace

std::unique_ptr<Job> rotate_job(const na_rotate& rotate) { return std::make_unique<RotateJob>(rotate); }

}  // namespace na::cpu
