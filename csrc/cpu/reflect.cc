#include "cpu/reflect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/half.h"
#include "core/mirror.h"
#include "cpu/page_rows.h"

namespace na::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A task is a segment of a key head.
class ReflectJob final : public Job {
 public:
  explicit ReflectJob(const na_reflect& reflect)
      : reflect_(reflect), rows_(*reflect.k, reflect.pages, 0), heads_(reflect.k->shape[2]) {
    const na_mirror& mirror = reflect.mirror;
    layout_ = {mirror.segment_rows, (mirror.bounds ? 2 : 1) * int64_t{rows_.columns}};
  }

  int64_t prepare() override {
    for (int64_t b = 0; b < reflect_.k->shape[0]; b++) {
      for (int64_t s = reflect_.first[b]; s < reflect_.mirror.segments[b]; s++) list_.push_back({b, s});
    }
    return static_cast<int64_t>(list_.size()) * heads_;
  }

  void run(int64_t task, void*, const Cancel&) override {
    const auto [batch, segment] = list_[static_cast<size_t>(task / heads_)];
    const int64_t head = task % heads_;
    char* const to = static_cast<char*>(reflect_.mirror.tables[batch][segment]) + head * layout_.head_bytes();
    std::memset(to, 0, static_cast<size_t>(layout_.codes_at()));
    std::vector<float> summaries(static_cast<size_t>(layout_.rows * layout_.columns)), key(layout_.columns),
        rest(layout_.quads() * 4);
    for (int64_t row = 0; row < layout_.rows; row++) {
      summarise(batch, head, segment * layout_.rows + row, key.data(), &summaries[row * layout_.columns]);
    }
    auto* const centre = reinterpret_cast<float*>(to);
    const float reach = find_centre(summaries, centre);
    std::memcpy(to + layout_.reach_at(), &reach, sizeof(reach));
    for (int64_t row = 0; row < layout_.rows; row++)
      encode(&summaries[row * layout_.columns], centre, row, rest.data(), to);
  }

 private:
  struct Segment {
    int64_t batch, segment;
  };

  // What a row stands for; `key` is room for one.
  void summarise(int64_t batch, int64_t head, int64_t row, float* key, float* summary) const {
    const int64_t block = reflect_.mirror.block, columns = rows_.columns;
    for (int64_t i = 0; i < block; i++) {
      rows_.read(rows_.row(batch, row * block + i, head), i == 0 ? summary : key);
      if (i == 0 && reflect_.mirror.bounds) std::copy_n(summary, columns, summary + columns);
      for (int64_t d = 0; d < columns && i > 0; d++) {
        if (reflect_.mirror.bounds) {
          summary[d] = std::max(summary[d], key[d]);
          summary[columns + d] = std::min(summary[columns + d], key[d]);
        } else {
          summary[d] += key[d];
        }
      }
    }
    for (int64_t d = 0; d < columns && !reflect_.mirror.bounds; d++) summary[d] /= static_cast<float>(block);
  }

  // The mean of what is finite, and the largest of it.
  float find_centre(const std::vector<float>& summaries, float* centre) const {
    const auto columns = static_cast<size_t>(layout_.columns);
    std::vector<double> sums(columns);
    float reach = 0;
    for (size_t at = 0; at < summaries.size(); at += columns) {
      for (size_t d = 0; d < columns; d++) {
        const float size = std::fabs(summaries[at + d]);
        const float element = size < kInfinity ? summaries[at + d] : 0.0f;
        sums[d] += static_cast<double>(element);
        reach = std::max(reach, std::fabs(element));
      }
    }
    for (size_t d = 0; d < columns; d++) centre[d] = static_cast<float>(sums[d] / static_cast<double>(layout_.rows));
    return reach;
  }

  // `rest` is room for as many columns as quads have.
  void encode(const float* summary, const float* centre, int64_t row, float* rest, char* to) const {
    float most = 0;
    bool finite = true;
    for (int64_t d = 0; d < layout_.columns; d++) {
      rest[d] = summary[d] - centre[d];
      const float size = std::fabs(rest[d]);
      finite &= size < kInfinity;
      most = std::max(most, size);
    }
    float unit = most / 127;
    if (most > 0) unit = std::max(unit, std::numeric_limits<float>::min());
    if (!finite) unit = kInfinity;
    std::memcpy(to + layout_.units_at() + row * 4, &unit, sizeof(unit));
    uint8_t* const codes =
        reinterpret_cast<uint8_t*>(to + layout_.codes_at()) + row / 16 * layout_.quads() * 64 + row % 16 * 4;
    const bool counts = unit > 0 && finite;
    for (int64_t quad = 0; quad < layout_.quads(); quad++) {
      uint32_t bytes[4];
      for (int64_t j = 0; j < 4; j++) {
        // Adding this leaves the nearest whole number, ties to even, in the lowest bits.
        const float steps = counts ? rest[quad * 4 + j] / unit : 0.0f;
        bytes[j] = float_bits(std::min(127.0f, std::max(-127.0f, steps)) + 12582912.0f);
      }
      for (int64_t j = 0; j < 4; j++) codes[quad * 64 + j] = static_cast<uint8_t>(128 + bytes[j]);
    }
  }

  const na_reflect& reflect_;
  const PageRows rows_;
  const int64_t heads_;
  MirrorLayout layout_;
  std::vector<Segment> list_;
};

}  // namespace

std::unique_ptr<Job> reflect_job(const na_reflect& reflect) { return std::make_unique<ReflectJob>(reflect); }

}  // namespace na::cpu
