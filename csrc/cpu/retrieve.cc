#include "cpu/retrieve.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "core/mirror.h"
#include "cpu/element.h"
#include "cpu/executor/problem.h"
#include "cpu/page_rows.h"

namespace na::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kPartBytes = 1 << 20;  // of a mirror: segments that make a task
constexpr size_t kSumRows = 256;         // that are added up in float32
constexpr int kMostSteps = 127 * 128;    // of a query: what two bytes hold, see ScanQuery

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Kernels {
  void (*scan_rows)(const Scan&);
  void (*score_list)(const RowList&, const float*, float*);
  void (*add_list)(const RowList&, const float*, float*);
};

Kernels kernels_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return {scan_rows_avx2, score_list_avx2, add_list_avx2};
    case Isa::kAvx512: return {scan_rows_avx512, score_list_avx512, add_list_avx512};
    case Isa::kAmx: return {scan_rows_amx, score_list_amx, add_list_amx};
#endif
    default: return {scan_rows_generic, score_list_generic, add_list_generic};
  }
}

// A query head, scaled, as keys and as rows of the mirror meet it.
struct Query {
  std::vector<float> columns, features;
  std::vector<int16_t> steps;
  std::vector<int32_t> high, low;
  ScanQuery scan{};

  // Rounds the features to steps. `exact`: what that, and the rounding of rows, may make of a score is to be known.
  void count_steps(bool exact) {
    float most = 0;
    bool finite = true;
    for (float x : features) {
      finite &= std::isfinite(x);
      most = std::max(most, std::fabs(x));
    }
    float unit = most / kMostSteps;
    if (unit < std::numeric_limits<float>::min()) unit = 0;
    if (!finite) unit = std::numeric_limits<float>::quiet_NaN();
    steps.resize(features.size());
    high.resize(features.size() / 4);
    low.resize(features.size() / 4);
    int32_t high_sum = 0, low_sum = 0;
    double norm = 0, rest = 0;
    for (size_t d = 0; d < features.size(); d++) {
      const float x = features[d];
      const int count =
          unit > 0 ? static_cast<int>(std::lrint(std::min<float>(kMostSteps, std::max<float>(-kMostSteps, x / unit))))
                   : 0;
      const int upper = (count + 64) >> 7, lower = count - upper * 128;
      steps[d] = static_cast<int16_t>(count);
      high[d / 4] |= static_cast<int32_t>(static_cast<uint32_t>(upper & 0xff) << d % 4 * 8);
      low[d / 4] |= static_cast<int32_t>(static_cast<uint32_t>(lower & 0xff) << d % 4 * 8);
      high_sum += upper;
      low_sum += lower;
      norm += std::fabs(static_cast<double>(x));
      rest += std::fabs(static_cast<double>(x) - static_cast<double>(unit) * count);
    }
    scan.columns = features.data();
    scan.steps = steps.data();
    scan.high = high.data();
    scan.low = low.data();
    scan.high_excess = 128 * high_sum;
    scan.low_excess = 128 * low_sum;
    scan.unit = unit;
    if (!exact) return;
    // An element of a row is off by half its unit, times a query's; a query's by what its steps lack, times 127 units
    // at most. The second part is for float32, in which this and the exact score are computed: two sums of products,
    // each at least 4 side by side, and what led to them.
    const double roundings = static_cast<double>(features.size()) / 2 + 64;
    scan.relative = static_cast<float>(1.0001 * (norm / 2 + 127 * rest));
    scan.absolute = static_cast<float>(norm * roundings * 0x1p-24);
  }
};

struct Choice {
  int32_t key;
  float score;
};

bool before(const Choice& a, const Choice& b) {
  const float x = a.score == a.score ? a.score : -kInfinity, y = b.score == b.score ? b.score : -kInfinity;
  return x != y ? x > y : a.key < b.key;
}

// Of hits, the lower bound that `count` of them reach.
float threshold_of(std::vector<Hit>& hits, int64_t size, int64_t count) {
  if (size < count) return -kInfinity;
  const auto nth = hits.begin() + (count - 1);
  std::nth_element(hits.begin(), nth, hits.begin() + size, [](const Hit& a, const Hit& b) { return a.low > b.low; });
  return nth->low;
}

// Keys of a sequence: [0, sinks) always count, [sinks, end) may be chosen, and rows [from, to) of the mirror stand for
// those that it covers.
struct Span {
  int64_t length, sinks, end, covered, from, to;
  bool all;      // no more than are wanted
  int64_t keep;  // rows
};

// A unit is a key head of a sequence; a task is some segments of one. Whichever of a unit's tasks ends last looks at
// the keys themselves.
class RetrieveJob final : public Job {
 public:
  RetrieveJob(const na_retrieve& retrieve, Isa isa)
      : r_(retrieve),
        kernels_(kernels_of(isa)),
        keys_(*retrieve.k, retrieve.pages, 0),
        values_(*retrieve.v, retrieve.pages, retrieve.pages.value_offset),
        heads_(retrieve.q->shape[2]),
        kv_heads_(retrieve.k->shape[2]),
        group_(heads_ / kv_heads_) {
    layout_ = {r_.mirror.segment_rows, (r_.mirror.bounds ? 2 : 1) * int64_t{keys_.columns}};
  }

  int64_t prepare() override {
    const int64_t batch = r_.q->shape[0], units = batch * kv_heads_;
    int64_t segments = 1;
    for (int64_t b = 0; b < batch; b++) {
      spans_.push_back(span_of(b));
      segments = std::max(segments, r_.mirror.segments[b]);
    }
    queries_.resize(static_cast<size_t>(batch * heads_));
    for (int64_t b = 0; b < batch; b++) {
      for (int64_t h = 0; h < heads_; h++) read_query(b, h);
    }
    part_segments_ = std::max<int64_t>(1, kPartBytes / layout_.head_bytes());
    parts_ = ceil_div(segments, part_segments_);
    hits_.resize(static_cast<size_t>(units * parts_ * group_));
    left_.reset(new std::atomic<int64_t>[static_cast<size_t>(units)]);
    for (int64_t u = 0; u < units; u++) left_[static_cast<size_t>(u)] = parts_;
    thresholds_.reset(new std::atomic<float>[queries_.size()]);
    for (size_t q = 0; q < queries_.size(); q++) thresholds_[q] = -kInfinity;
    return units * parts_;
  }

  void run(int64_t task, void*, const Cancel& cancel) override {
    const int64_t unit = task / parts_;
    scan(unit, task % parts_, cancel);
    if (cancel.requested()) return;
    if (left_[static_cast<size_t>(unit)].fetch_sub(1, std::memory_order_acq_rel) == 1) finish(unit, cancel);
  }

 private:
  Span span_of(int64_t b) const {
    const int64_t block = r_.mirror.block;
    Span s{};
    s.length = r_.pages.lengths[b];
    s.end = std::max<int64_t>(0, s.length - r_.window);
    s.sinks = std::min(r_.sink, s.end);
    s.covered = r_.mirror.segments[b] * r_.mirror.segment_rows * block;
    s.from = s.sinks / block;
    s.to = std::max(s.from, ceil_div(std::min(s.end, s.covered), block));
    const double share = std::ceil(r_.probe * static_cast<double>(s.to - s.from));
    const int64_t hidden = s.sinks % block + s.to * block - std::min(s.end, s.covered);  // of the first and last row
    s.keep = block == 1 ? r_.top : std::max(static_cast<int64_t>(share), ceil_div(r_.top + hidden, block));
    s.all = s.end - s.sinks <= r_.top || (block > 1 && s.to - s.from <= s.keep);
    return s;
  }

  Query& query(int64_t batch, int64_t head) { return queries_[static_cast<size_t>(batch * heads_ + head)]; }
  std::vector<Hit>& hits_of(int64_t unit, int64_t part, size_t member) {
    return hits_[static_cast<size_t>((unit * parts_ + part) * group_) + member];
  }

  void read_query(int64_t batch, int64_t head) {
    Query& to = query(batch, head);
    const int64_t columns = keys_.columns, from = batch * r_.q->stride[0] + head * r_.q->stride[2];
    to.columns.resize(static_cast<size_t>(ceil_div(columns, kStrip) * kStrip));
    to.features.resize(static_cast<size_t>(layout_.quads() * 4));
    for (int64_t d = 0; d < columns; d++) {
      const float x = load_element(*r_.q, from + d) * r_.scale;
      to.columns[static_cast<size_t>(d)] = x;
      to.features[static_cast<size_t>(d)] = r_.mirror.bounds ? std::max(x, 0.0f) : x;
      if (r_.mirror.bounds) to.features[static_cast<size_t>(columns + d)] = std::min(x, 0.0f);
    }
    to.count_steps(r_.mirror.block == 1);
  }

  // The rows of a part that may be among the best.
  void scan(int64_t unit, int64_t part, const Cancel& cancel) {
    const int64_t b = unit / kv_heads_, kv_head = unit % kv_heads_, rows = layout_.rows;
    const Span& span = spans_[static_cast<size_t>(b)];
    if (span.all) return;
    // Hits are gathered in memory that is reused, so that it stays in the cache.
    std::vector<std::vector<Hit>> hits(static_cast<size_t>(group_));
    std::vector<ScanQuery> queries;
    std::vector<int64_t> enough(hits.size(), 2 * span.keep);  // hits to find a threshold by
    for (int64_t g = 0; g < group_; g++) {
      queries.push_back(query(b, kv_head * group_ + g).scan);
      queries.back().threshold = -kInfinity;
    }
    const int64_t last = std::min((part + 1) * part_segments_, r_.mirror.segments[b]);
    const int64_t most = (last - part * part_segments_) * rows;  // hits
    for (int64_t s = part * part_segments_; s < last; s++) {
      if (cancel.requested()) return;
      const int64_t from = std::max<int64_t>(0, span.from - s * rows), to = std::min(rows, span.to - s * rows);
      if (from >= to) continue;
      for (size_t g = 0; g < hits.size(); g++) {
        const auto room = static_cast<size_t>(queries[g].count + rows);
        if (hits[g].size() < room)
          hits[g].resize(std::max(room, static_cast<size_t>(std::min(2 * span.keep + rows, most))));
        queries[g].hits = hits[g].data();
        queries[g].threshold = std::max(queries[g].threshold, shared(b, kv_head, g).load(std::memory_order_relaxed));
      }
      const char* const at = static_cast<const char*>(r_.mirror.tables[b][s]) + kv_head * layout_.head_bytes();
      Scan scan{};
      scan.centre = reinterpret_cast<const float*>(at);
      scan.reach = *reinterpret_cast<const float*>(at + layout_.reach_at());
      scan.units = reinterpret_cast<const float*>(at + layout_.units_at());
      scan.codes = reinterpret_cast<const uint8_t*>(at + layout_.codes_at());
      scan.quads = static_cast<int>(layout_.quads());
      scan.from = static_cast<int>(from);
      scan.to = static_cast<int>(to);
      scan.first = static_cast<int32_t>(s * rows);
      scan.queries = queries.data();
      scan.query_count = static_cast<int>(group_);
      kernels_.scan_rows(scan);
      for (size_t g = 0; g < hits.size(); g++) {
        if (queries[g].count < enough[g]) continue;
        narrow(hits[g], span.keep, shared(b, kv_head, g), queries[g]);
        enough[g] = queries[g].count + span.keep;
      }
    }
    for (size_t g = 0; g < hits.size(); g++) {
      hits_of(unit, part, g).assign(hits[g].begin(), hits[g].begin() + queries[g].count);
    }
  }

  std::atomic<float>& shared(int64_t batch, int64_t kv_head, size_t member) {
    return thresholds_[static_cast<size_t>(batch * heads_ + kv_head * group_) + member];
  }

  // Raises the threshold, also for the unit's other tasks, to what as many hits reach as are wanted, and drops the
  // rest.
  static void narrow(std::vector<Hit>& hits, int64_t keep, std::atomic<float>& shared, ScanQuery& query) {
    const float threshold = threshold_of(hits, query.count, keep);
    if (threshold > query.threshold) {
      query.threshold = threshold;
      float before = shared.load(std::memory_order_relaxed);
      while (before < threshold && !shared.compare_exchange_weak(before, threshold, std::memory_order_relaxed)) {
      }
    }
    const auto below = [&](const Hit& hit) { return hit.high < query.threshold; };
    query.count = std::remove_if(hits.begin(), hits.begin() + query.count, below) - hits.begin();
  }

  void finish(int64_t unit, const Cancel& cancel) {
    const int64_t b = unit / kv_heads_, kv_head = unit % kv_heads_, block = r_.mirror.block;
    const Span& span = spans_[static_cast<size_t>(b)];
    const bool paged = block > 1 && !span.all;
    std::vector<bool> probed(paged ? static_cast<size_t>(span.to - span.from) : 0);
    for (int64_t g = 0; g < group_ && !cancel.requested(); g++) {
      std::vector<Choice> choices;
      if (span.all) {
        for (int64_t key = span.sinks; key < span.end; key++) choices.push_back({static_cast<int32_t>(key), 0});
      } else {
        for (const int64_t row : best_rows(unit, static_cast<size_t>(g))) {
          if (paged) probed[static_cast<size_t>(row - span.from)] = true;
          const int64_t end = std::min((row + 1) * block, span.end);
          for (int64_t key = std::max(row * block, span.sinks); key < end; key++) {
            choices.push_back({static_cast<int32_t>(key), 0});
          }
        }
        for (int64_t key = std::max(span.sinks, span.covered); key < span.end; key++) {
          choices.push_back({static_cast<int32_t>(key), 0});
        }
      }
      const int64_t head = kv_head * group_ + g;
      score(b, head, choices);
      if (static_cast<int64_t>(choices.size()) > r_.top) {
        std::nth_element(choices.begin(), choices.begin() + r_.top, choices.end(), before);
        choices.resize(static_cast<size_t>(r_.top));
      }
      std::sort(choices.begin(), choices.end(), before);
      if (r_.ids) write_choices(b, head, choices);
      if (r_.out) attend(b, head, choices);
    }
    int64_t touched = span.length;
    for (size_t i = 0; i < probed.size(); i++) {
      const int64_t row = span.from + static_cast<int64_t>(i);
      if (!probed[i]) touched -= std::min((row + 1) * block, span.end) - std::max(row * block, span.sinks);
    }
    static_cast<int64_t*>(r_.touched->data)[unit] = touched;
  }

  // Rows that may be among the best of their unit or, where rows are no keys, which are.
  std::vector<int64_t> best_rows(int64_t unit, size_t member) {
    std::vector<Hit> hits;
    for (int64_t part = 0; part < parts_; part++) {
      std::vector<Hit>& more = hits_of(unit, part, member);
      hits.insert(hits.end(), more.begin(), more.end());
      more = {};
    }
    const int64_t keep = spans_[static_cast<size_t>(unit / kv_heads_)].keep;
    if (r_.mirror.block == 1) {
      const float threshold = threshold_of(hits, static_cast<int64_t>(hits.size()), keep);
      const auto below = [&](const Hit& hit) { return hit.high < threshold; };
      hits.erase(std::remove_if(hits.begin(), hits.end(), below), hits.end());
    } else if (static_cast<int64_t>(hits.size()) > keep) {
      const auto better = [](const Hit& a, const Hit& c) { return a.high != c.high ? a.high > c.high : a.row < c.row; };
      std::nth_element(hits.begin(), hits.begin() + keep, hits.end(), better);
      hits.resize(static_cast<size_t>(keep));
    }
    std::vector<int64_t> rows;
    for (const Hit& hit : hits) rows.push_back(hit.row);
    return rows;
  }

  void score(int64_t batch, int64_t head, std::vector<Choice>& choices) {
    std::vector<const char*> rows;
    for (const Choice& choice : choices) rows.push_back(keys_.row(batch, choice.key, head / group_));
    std::vector<float> scores(choices.size());
    kernels_.score_list(list_of(keys_, rows), query(batch, head).columns.data(), scores.data());
    for (size_t i = 0; i < choices.size(); i++) choices[i].score = scores[i];
  }

  static RowList list_of(const PageRows& of, const std::vector<const char*>& rows) {
    return {of.dtype, of.int8, of.columns, static_cast<int64_t>(rows.size()), rows.data()};
  }

  void write_choices(int64_t batch, int64_t head, const std::vector<Choice>& choices) const {
    const int64_t at = (batch * heads_ + head) * r_.top;
    int32_t* const ids = static_cast<int32_t*>(r_.ids->data) + at;
    float* const scores = static_cast<float*>(r_.scores->data) + at;
    for (int64_t i = 0; i < r_.top; i++) {
      const bool there = i < static_cast<int64_t>(choices.size());
      ids[i] = there ? choices[static_cast<size_t>(i)].key : -1;
      scores[i] = there ? choices[static_cast<size_t>(i)].score : -kInfinity;
    }
  }

  void attend(int64_t batch, int64_t head, std::vector<Choice>& choices) {
    const int64_t sinks = spans_[static_cast<size_t>(batch)].sinks;
    std::vector<Choice> first;
    for (int64_t key = 0; key < sinks; key++) first.push_back({static_cast<int32_t>(key), 0});
    score(batch, head, first);
    choices.insert(choices.end(), first.begin(), first.end());
    float most = -kInfinity;
    for (const Choice& choice : choices) most = std::max(most, choice.score);
    const float zero = most == -kInfinity ? 0.0f : most;
    std::vector<float> weights, sums(static_cast<size_t>(ceil_div(values_.columns, kStrip) * kStrip));
    std::vector<double> all(sums.size());
    std::vector<const char*> rows;
    double total = 0;
    for (size_t i = 0; i < choices.size(); i++) {
      weights.push_back(std::exp(choices[i].score - zero));
      total += static_cast<double>(weights.back());
      rows.push_back(values_.row(batch, choices[i].key, head / group_));
      if (rows.size() < kSumRows && i + 1 < choices.size()) continue;
      kernels_.add_list(list_of(values_, rows), weights.data(), sums.data());
      for (size_t d = 0; d < all.size(); d++) all[d] += static_cast<double>(std::exchange(sums[d], 0.0f));
      weights.clear();
      rows.clear();
    }
    const int64_t row = batch * heads_ + head;
    for (int64_t d = 0; d < values_.columns; d++) {
      const double mean = total == 0 ? 0 : all[static_cast<size_t>(d)] / total;
      store_element(*r_.out, row * values_.columns + d, static_cast<float>(mean));
    }
    static_cast<float*>(r_.lse->data)[row] =
        total == 0 ? -kInfinity : static_cast<float>(static_cast<double>(zero) + std::log(total));
  }

  const na_retrieve& r_;
  const Kernels kernels_;
  const PageRows keys_, values_;
  const int64_t heads_, kv_heads_, group_;
  MirrorLayout layout_;
  std::vector<Span> spans_;     // of sequences
  std::vector<Query> queries_;  // [batch, head]
  int64_t part_segments_ = 1, parts_ = 1;
  std::vector<std::vector<Hit>> hits_;                // [unit, part, query head of it]
  std::unique_ptr<std::atomic<int64_t>[]> left_;      // tasks of each unit that have not ended
  std::unique_ptr<std::atomic<float>[]> thresholds_;  // of each query
};

}  // namespace

std::unique_ptr<Job> retrieve_job(const na_retrieve& retrieve, Isa isa) {
  return std::make_unique<RetrieveJob>(retrieve, isa);
}

}  // namespace na::cpu
