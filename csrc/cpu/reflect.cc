#include "cpu/reflect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "cpu/cluster.h"
#include "cpu/segments.h"

namespace na::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Memory of a task.
struct Space {
  Space(const MirrorLayout& layout, void* memory)
      : arena(memory),
        summaries(arena.take<float>(layout.rows * layout.columns)),
        key(arena.take<float>(layout.columns)),
        rest(arena.take<float>(layout.quads() * 4)),
        sums(arena.take<double>(layout.columns)),
        clusters(arena, layout.tokens, layout.rows, layout.tokens > 0 ? layout.columns : 0) {}

  Arena arena;
  float *summaries, *key, *rest;
  double* sums;
  ClusterSpace clusters;
};

// A task is a segment of a key head.
class ReflectJob final : public Job {
 public:
  ReflectJob(const na_reflect& reflect, Isa isa)
      : reflect_(reflect),
        isa_(isa),
        rows_(*reflect.k, reflect.pages, 0),
        heads_(reflect.k->shape[2]),
        list_{reflect.mirror, reflect.first, reflect.k->shape[0]},
        layout_(reflect.mirror, reflect.k->shape[3]) {}

  int64_t prepare() override { return list_.count() * heads_; }

  void run(int64_t task, void* scratch, const Cancel& cancel) override {
    const auto [batch, segment] = list_.at(task / heads_);
    const int64_t head = task % heads_, first = segment * layout_.rows * reflect_.mirror.block;
    const SegmentHead of(reflect_.mirror, layout_, batch, segment, head);
    Space space(layout_, scratch);
    char* const to = of.data;
    std::memset(to, 0, static_cast<size_t>(layout_.codes_at()));
    auto used = static_cast<int32_t>(layout_.rows);
    if (reflect_.mirror.clusters) {
      used = cluster_keys(rows_, batch, first, head, layout_, isa_, cancel, space.clusters, layout_.lists(to));
      std::memset(to + layout_.codes_at(), 0, static_cast<size_t>(layout_.lists_at() - layout_.codes_at()));
    }
    std::memcpy(to + layout_.used_at(), &used, sizeof(used));
    for (int64_t row = 0; row < used; row++) {
      float* const summary = space.summaries + row * layout_.columns;
      if (reflect_.mirror.clusters) {
        average(of, batch, first, head, row, space, summary);
      } else {
        summarise(batch, head, first + row * reflect_.mirror.block, space.key, summary);
      }
    }
    auto* const centre = reinterpret_cast<float*>(to);
    const float reach = find_centre(space, used, centre);
    std::memcpy(to + layout_.reach_at(), &reach, sizeof(reach));
    std::fill_n(space.rest, layout_.quads() * 4, 0.0f);
    for (int64_t row = 0; row < used; row++)
      encode(space.summaries + row * layout_.columns, centre, row, space.rest, to);
  }

 private:
  // The mean of the members of a cluster.
  void average(const SegmentHead& of, int64_t batch, int64_t first, int64_t head, int64_t row, const Space& space,
               float* summary) const {
    std::fill_n(space.sums, layout_.columns, 0.0);
    of.each_key(row, [&](int64_t key) {
      rows_.read(rows_.row(batch, first + key, head), space.key);
      for (int64_t d = 0; d < layout_.columns; d++) space.sums[d] += static_cast<double>(space.key[d]);
    });
    const auto count = static_cast<double>(of.key_count(row));
    for (int64_t d = 0; d < layout_.columns; d++) summary[d] = static_cast<float>(space.sums[d] / count);
  }

  // What the keys from `first` on become as a row of the mirror; `key` is room for one.
  void summarise(int64_t batch, int64_t head, int64_t first, float* key, float* summary) const {
    const int64_t block = reflect_.mirror.block, columns = rows_.columns;
    for (int64_t i = 0; i < block; i++) {
      rows_.read(rows_.row(batch, first + i, head), i == 0 ? summary : key);
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
  float find_centre(const Space& space, int64_t used, float* centre) const {
    std::fill_n(space.sums, layout_.columns, 0.0);
    float reach = 0;
    for (int64_t row = 0; row < used; row++) {
      const float* const summary = space.summaries + row * layout_.columns;
      for (int64_t d = 0; d < layout_.columns; d++) {
        const float size = std::fabs(summary[d]);
        const float element = size < kInfinity ? summary[d] : 0.0f;
        space.sums[d] += static_cast<double>(element);
        reach = std::max(reach, std::fabs(element));
      }
    }
    for (int64_t d = 0; d < layout_.columns; d++) {
      centre[d] = static_cast<float>(space.sums[d] / static_cast<double>(used));
    }
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
  const Isa isa_;
  const PageRows rows_;
  const int64_t heads_;
  const SegmentList list_;
  const MirrorLayout layout_;
};

}  // namespace

size_t reflect_scratch_bytes(const na_reflect& reflect) {
  return Space(MirrorLayout(reflect.mirror, reflect.k->shape[3]), nullptr).arena.used();
}

std::unique_ptr<Job> reflect_job(const na_reflect& reflect, Isa isa) {
  return std::make_unique<ReflectJob>(reflect, isa);
}

}  // namespace na::cpu
