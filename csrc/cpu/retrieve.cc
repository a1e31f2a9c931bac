#include "cpu/retrieve.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <new>
#include <optional>
#include <utility>

#include "core/ceil_div.h"
#include "cpu/arena.h"
#include "cpu/choice.h"
#include "cpu/element.h"
#include "cpu/executor/problem.h"
#include "cpu/key_walk.h"
#include "cpu/page_rows.h"
#include "cpu/segments.h"

namespace na::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kPartBytes = 1 << 20;  // of a mirror: segments that make a task
constexpr int64_t kChunk = 1024;         // keys that are scored together
constexpr int64_t kSumRows = 256;        // that are added up in float32
constexpr int kMostSteps = 127 * 128;    // of a query: what two bytes hold, see ScanQuery

// Many keys that always count are cut into tasks, each of so many bytes of keys and values; but into so many tasks at
// most, since each keeps sums.
constexpr int64_t kRangeBytes = 2 << 20, kMostRanges = 64;

struct Kernels {
  void (*scan_rows)(const Scan&);
  ScoreList score_list;
  void (*add_list)(const RowList&, const float*, float*);
  float (*reached_by)(const float*, int64_t, int64_t);
};

Kernels kernels_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return {scan_rows_avx2, score_list_avx2, add_list_avx2, reached_by_avx2};
    case Isa::kAvx512:
      return {isa_has_vnni() ? scan_rows_vnni : scan_rows_avx2, score_list_avx512, add_list_avx512, reached_by_avx512};
    case Isa::kAmx: return {scan_rows_vnni, score_list_amx, add_list_amx, reached_by_amx};
#endif
    default: return {scan_rows_generic, score_list_generic, add_list_generic, reached_by_generic};
  }
}

// A query head, scaled, as keys and as rows of the mirror meet it.
struct Query {
  float *columns, *features;
  int16_t* steps;
  int32_t *high, *low;
  ScanQuery scan;

  // Rounds the features to steps. `exact`: what that, and the rounding of rows, may make of a score is to be known.
  void count_steps(int64_t feature_count, bool exact) {
    float most = 0;
    bool finite = true;
    for (int64_t d = 0; d < feature_count; d++) {
      finite &= std::isfinite(features[d]);
      most = std::max(most, std::fabs(features[d]));
    }
    float unit = most / kMostSteps;
    if (unit < std::numeric_limits<float>::min()) unit = 0;
    if (!finite) unit = std::numeric_limits<float>::quiet_NaN();
    std::fill_n(high, feature_count / 4, 0);
    std::fill_n(low, feature_count / 4, 0);
    int32_t high_sum = 0, low_sum = 0, size = 0;
    double norm = 0, rest = 0;
    for (int64_t d = 0; d < feature_count; d++) {
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
      size += std::abs(count);
      norm += std::fabs(static_cast<double>(x));
      rest += std::fabs(static_cast<double>(x) - static_cast<double>(unit) * count);
    }
    scan = {};
    scan.columns = features;
    scan.steps = steps;
    scan.high = high;
    scan.low = low;
    scan.high_excess = 128 * high_sum;
    scan.low_excess = 128 * low_sum;
    scan.unit = unit;
    // An element of a row is off by half its unit, times a query's; a query's by what its steps lack, times 127 units
    // at most. The second part is for float32, in which this and the exact score are computed: two sums of products,
    // each at least 4 side by side, and what led to them.
    const double roundings = static_cast<double>(feature_count) / 2 + 64;
    const double relative = exact ? norm / 2 + 127 * rest : 0;
    scan.relative = static_cast<float>(1.0001 * relative);
    scan.absolute = exact ? static_cast<float>(norm * roundings * 0x1p-24) : 0;
    // A few roundings of the largest sum that there may be; where that is no number, all rows are looked at closely.
    const double largest = 127.0 * static_cast<double>(unit) * size, slack = 1.0001 * relative + 0x1p-20 * largest;
    scan.slack = slack + largest < std::numeric_limits<float>::max() ? static_cast<float>(slack) : kInfinity;
  }
};

// The order of rows whose keys are looked at.
constexpr auto better_row = [](const Hit& a, const Hit& b) {
  return a.high != b.high ? a.high > b.high : a.row < b.row;
};

// Keys of a sequence, for a key head: [0, sinks) always count, [sinks, end) may be chosen, and rows [from, to) of the
// mirror stand for those that it covers, perhaps with some that may not. The keys of a graph are rows of their own. For
// a head that attends to all keys sinks is end.
struct Span {
  int64_t length, sinks, end, covered, from, to;
  bool searched;                            // there are more than are wanted: rows or the graph say which to look at
  int64_t top, share, keep;                 // keys; rows that are looked into at least, and rows that are kept for it
  int64_t ranges, first_range, range_keys;  // tasks that [0, sinks) is cut into; none: the unit's last task has it

  int64_t covered_end() const { return std::min(end, covered); }
};

// A softmax that grows by some scores and values at a time.
struct Softmax {
  float most;
  double total;
  double* out;  // sums of weighted values

  // What weighs 1.
  float zero() const { return most == -kInfinity ? 0.0f : most; }
};

// What is left of the rows of a part for a query head.
struct Found {
  int64_t count;  // -1: more than there is room for, so that all rows may be among the best
  Hit* hits;
  bool joined;  // the query's threshold takes them into account
};

// How much memory everything takes. `room`: hits of a part that are kept; `gathered`: that are there at a time.
struct Sizes {
  int64_t queries, units, group, parts, part_rows, room, gathered, keep, top, rows, seen, walk, ranges;
  int64_t columns, features, values;  // padded
};

// What an operation keeps from task to task.
struct Workspace {
  Workspace(const Sizes& s, void* memory)
      : arena(memory),
        spans(arena.take<Span>(s.units)),
        range_units(arena.take<int64_t>(s.ranges)),
        queries(arena.take<Query>(s.queries)),
        columns(arena.take<float>(s.queries * s.columns)),
        features(arena.take<float>(s.queries * s.features)),
        steps(arena.take<int16_t>(s.queries * s.features)),
        words(arena.take<int32_t>(s.queries * s.features / 2)),
        left(arena.take<std::atomic<int64_t>>(s.units)),
        thresholds(arena.take<std::atomic<float>>(s.queries)),
        joining(arena.take<std::atomic<bool>>(s.units)),
        sure_counts(arena.take<int64_t>(s.queries)),
        sure(arena.take<float>(s.queries * s.keep)),
        found(arena.take<Found>(s.queries * s.parts)),
        hits(arena.take<Hit>(s.queries * s.parts * s.room)),
        walks(arena.take<char>(s.units * s.walk)),
        range_sums(arena.take<Softmax>(s.ranges * s.group)),
        range_outs(arena.take<double>(s.ranges * s.group * s.values)) {}

  Arena arena;
  Span* spans;           // of units
  int64_t* range_units;  // of ranges
  Query* queries;        // [batch, head]
  float *columns, *features;
  int16_t* steps;
  int32_t* words;
  std::atomic<int64_t>* left;      // tasks of each unit that have not ended
  std::atomic<float>* thresholds;  // of each query
  std::atomic<bool>* joining;      // a task of the unit is at what follows
  int64_t* sure_counts;            // of each query
  float* sure;                     // what as many of its best rows surely reach, of the parts that were joined
  Found* found;                    // [unit, part, query head of it]
  Hit* hits;
  char* walks;          // of each unit
  Softmax* range_sums;  // [range of all units, query head of the unit], and their sums
  double* range_outs;
};

// A thread's own memory: to scan a part, and then to end a unit.
struct Scratch {
  Scratch(const Sizes& s, void* memory)
      : arena(memory),
        hits(arena.take<Hit>(s.group * s.gathered)),
        queries(arena.take<ScanQuery>(s.group)),
        enough(arena.take<int64_t>(s.group)),
        sure(arena.take<float>(s.keep + s.gathered)),
        probed(arena.take<bool>(s.rows)),
        seen(arena.take<bool>(s.group * s.seen)),
        rows(arena.take<Hit>(s.rows > 0 ? 2 * s.keep : 0)),
        choices(arena.take<Choice>(2 * s.top + kChunk)),
        keys(arena.take<int32_t>(kChunk)),
        scores(arena.take<float>(kChunk)),
        key_rows(arena.take<const char*>(kChunk)),
        value_rows(arena.take<const char*>(kChunk)),
        weights(arena.take<float>(kSumRows)),
        sums(arena.take<float>(s.values)),
        softmaxes(arena.take<Softmax>(s.group)),
        outs(arena.take<double>(s.group * s.values)),
        columns(arena.take<const float*>(s.group)) {}

  Arena arena;
  Hit* hits;
  ScanQuery* queries;
  int64_t* enough;
  float* sure;
  bool *probed,
      *seen;  // rows from span.from on: keys of which were looked at; [query head of the unit]: all attended to
  Hit* rows;
  Choice* choices;
  int32_t* keys;
  float* scores;
  const char **key_rows, **value_rows;
  float *weights, *sums;
  Softmax* softmaxes;  // [query head of the unit], and their sums
  double* outs;
  const float** columns;  // [query head of the unit], to walk
};

// A unit is a key head of a sequence; a task is some segments of one, or a range of keys that always count. Whichever
// of a unit's tasks ends last looks at the keys themselves.
class RetrieveJob final : public Job {
 public:
  RetrieveJob(const na_retrieve& retrieve, Isa isa)
      : r_(retrieve),
        kernels_(kernels_of(isa)),
        keys_(*retrieve.k, retrieve.pages, 0),
        values_(*retrieve.v, retrieve.pages, retrieve.pages.value_offset),
        heads_(retrieve.q->shape[2]),
        kv_heads_(retrieve.k->shape[2]),
        group_(heads_ / kv_heads_),
        paged_(retrieve.mirror.block > 1),
        layout_(retrieve.mirror, retrieve.k->shape[3]),
        means_{layout_.rows, keys_.columns, values_.columns},
        part_segments_(segments_of_part()),
        sizes_(measure()),
        work_(sizes_, retrieve.workspace) {}

  int64_t workspace_bytes() const { return static_cast<int64_t>(Workspace(sizes_, nullptr).arena.used()); }
  size_t scratch_bytes() const { return Scratch(sizes_, nullptr).arena.used(); }

  int64_t prepare() override {
    const Sizes& s = sizes_;
    for (int64_t b = 0; b < r_.q->shape[0]; b++) {
      for (int64_t h = 0; h < heads_; h++) read_query(b, h);
    }
    int64_t ranges = 0;
    for (int64_t u = 0; u < s.units; u++) {
      Span& span = work_.spans[u] = span_of(u);
      span.first_range = ranges;
      std::fill_n(work_.range_units + ranges, span.ranges, u);
      ranges += span.ranges;
      new (&work_.left[u]) std::atomic<int64_t>(s.parts + span.ranges);
    }
    for (int64_t u = 0; u < s.units; u++) new (&work_.joining[u]) std::atomic<bool>(false);
    for (int64_t q = 0; q < s.queries; q++) new (&work_.thresholds[q]) std::atomic<float>(-kInfinity);
    std::fill_n(work_.sure_counts, s.queries, 0);
    for (int64_t i = 0; i < s.queries * s.parts; i++) work_.found[i] = {0, work_.hits + i * s.room, false};
    return s.ranges + s.units * s.parts;
  }

  void run(int64_t task, void* memory, const Cancel& cancel) override {
    const Scratch scratch(sizes_, memory);
    int64_t unit;
    if (task < sizes_.ranges) {
      unit = work_.range_units[task];
      attend_to_range(unit, task, scratch, cancel);
    } else {
      task -= sizes_.ranges;
      // Parts of different units in turn: those of a unit do not begin together, when none knows a threshold.
      unit = task % sizes_.units;
      scan(unit, task / sizes_.units, scratch, cancel);
    }
    if (cancel.requested()) return;
    if (work_.left[unit].fetch_sub(1, std::memory_order_acq_rel) == 1) finish(unit, scratch, cancel);
  }

 private:
  int64_t most_segments() const {
    return std::max<int64_t>(1, *std::max_element(r_.mirror.segments, r_.mirror.segments + r_.q->shape[0]));
  }

  int64_t segments_of_part() const {
    return std::min(most_segments(), std::max<int64_t>(1, kPartBytes / layout_.head_bytes()));
  }

  Sizes measure() const {
    Sizes s{};
    s.queries = r_.q->shape[0] * heads_;
    s.units = r_.q->shape[0] * kv_heads_;
    s.group = group_;
    s.parts = ceil_div(most_segments(), part_segments_);
    s.part_rows = part_segments_ * layout_.rows;
    na_retrieve widest = r_;
    widest.top = 0;
    for (int64_t u = 0; u < s.units; u++) {
      const Span span = span_of(u);
      s.ranges += span.ranges;
      s.top = std::max(s.top, span.top);
      if (paged_) s.rows = std::max(s.rows, span.to - span.from);
      if (r_.means) s.seen = s.rows;
      if (!span.searched) continue;
      if (r_.graph) {
        widest.top = std::max(widest.top, span.top);
      } else {
        s.keep = std::max(s.keep, span.keep);
      }
    }
    if (widest.top > 0) s.walk = ceil_div(KeyWalk::bytes(widest), 64) * 64;
    if (s.keep > 0) {
      s.room = std::min(s.part_rows, paged_ ? 2 * s.keep : 4 * s.keep + 256);
      s.gathered = std::min(s.part_rows, s.room + layout_.rows);
    }
    s.columns = ceil_div(keys_.columns, kStrip) * kStrip;
    s.features = layout_.quads() * 4;
    s.values = ceil_div(values_.columns, kStrip) * kStrip;
    return s;
  }

  Span span_of(int64_t unit) const {
    const int64_t b = unit / kv_heads_, wanted = r_.tops ? r_.tops[unit % kv_heads_] : r_.top;
    const int64_t block = r_.mirror.block, segment = layout_.rows * block;
    // Tokens whose rows begin and end together.
    const int64_t step = r_.mirror.clusters ? segment : block;
    Span s{};
    s.length = r_.pages.lengths[b];
    s.end = std::max<int64_t>(0, s.length - r_.window);
    s.sinks = std::min(r_.sink, s.end);
    s.top = std::min(wanted, s.end - s.sinks);
    if (r_.out && s.top == s.end - s.sinks) {  // attention to all is no search
      s.sinks = s.end;
      s.top = 0;
    }
    if (r_.out) {
      const int64_t keys = std::max(kRangeBytes / (keys_.head + values_.head), ceil_div(s.sinks, kMostRanges));
      s.range_keys = ceil_div(keys, kSumRows) * kSumRows;
      s.ranges = s.sinks > s.range_keys ? ceil_div(s.sinks, s.range_keys) : 0;
    }
    if (s.sinks == s.end || (s.top == 0 && !r_.means)) return s;  // no row matters
    s.covered = r_.graph ? r_.graph->counts[b] : r_.mirror.segments[b] * segment;
    s.from = s.sinks / step * step / block;
    s.to = std::max(s.from, ceil_div(s.covered_end(), step) * step / block);
    s.share = static_cast<int64_t>(std::ceil(r_.probe * static_cast<double>(s.to - s.from)));
    // Keys of these rows that may not be chosen. A cluster has one key at least, perhaps no more: it is seen later how
    // many of those that are kept are looked into.
    const int64_t rows = s.to - s.from, hidden = rows * block - std::max<int64_t>(0, s.covered_end() - s.sinks);
    const int64_t enough = r_.mirror.clusters ? s.top + hidden : ceil_div(s.top + hidden, block);
    s.keep = paged_ ? std::min(rows, std::max(s.share, enough)) : s.top;
    const bool few = (paged_ && rows <= (r_.mirror.clusters ? s.share : s.keep)) || (r_.graph && rows <= r_.effort);
    s.searched = s.top > 0 && s.top < s.end - s.sinks && !few;
    return s;
  }

  const Span& span_at(int64_t batch, int64_t kv_head) const { return work_.spans[batch * kv_heads_ + kv_head]; }
  const Query& query(int64_t batch, int64_t head) const { return work_.queries[batch * heads_ + head]; }
  Found& found(int64_t unit, int64_t part, int64_t member) const {
    return work_.found[(unit * sizes_.parts + part) * group_ + member];
  }
  SegmentHead segment_head(int64_t batch, int64_t segment, int64_t kv_head) const {
    return SegmentHead(r_.mirror, layout_, batch, segment, kv_head);
  }

  void read_query(int64_t batch, int64_t head) {
    const int64_t at = batch * heads_ + head, count = sizes_.features;
    Query& to = work_.queries[at];
    to.columns = work_.columns + at * sizes_.columns;
    to.features = work_.features + at * count;
    to.steps = work_.steps + at * count;
    to.high = work_.words + at * count / 2;
    to.low = to.high + count / 4;
    std::fill_n(to.columns, sizes_.columns, 0.0f);
    std::fill_n(to.features, count, 0.0f);
    const int64_t columns = keys_.columns, from = batch * r_.q->stride[0] + head * r_.q->stride[2];
    for (int64_t d = 0; d < columns; d++) {
      const float x = load_element(*r_.q, from + d) * r_.scale;
      to.columns[d] = x;
      to.features[d] = r_.mirror.bounds ? std::max(x, 0.0f) : x;
      if (r_.mirror.bounds) to.features[columns + d] = std::min(x, 0.0f);
    }
    to.count_steps(count, !paged_);
  }

  // The rows of a part that may be among the best.
  void scan(int64_t unit, int64_t part, const Scratch& scratch, const Cancel& cancel) {
    const int64_t b = unit / kv_heads_, kv_head = unit % kv_heads_, rows = layout_.rows;
    const Span& span = work_.spans[unit];
    if (!span.searched || r_.graph) return;
    ScanQuery* const queries = scratch.queries;
    for (int64_t g = 0; g < group_; g++) {
      queries[g] = query(b, kv_head * group_ + g).scan;
      queries[g].threshold = -kInfinity;
      queries[g].hits = scratch.hits + g * sizes_.gathered;
      queries[g].count = 0;
      scratch.enough[g] = 2 * span.keep;  // hits to find a threshold by
      found(unit, part, g).count = 0;
    }
    const int64_t last = std::min((part + 1) * part_segments_, r_.mirror.segments[b]);
    for (int64_t s = part * part_segments_; s < last; s++) {
      if (cancel.requested()) return;
      const SegmentHead at = segment_head(b, s, kv_head);
      const int64_t from = std::max<int64_t>(0, span.from - s * rows), to = std::min(rows, span.to - s * rows);
      const int64_t used = std::min<int64_t>(to, at.used());
      if (from >= used) continue;
      for (int64_t g = 0; g < group_; g++) {
        queries[g].threshold = std::max(queries[g].threshold, shared(unit, g).load(std::memory_order_relaxed));
      }
      Scan scan{};
      scan.centre = reinterpret_cast<const float*>(at.data);
      scan.reach = *reinterpret_cast<const float*>(at.data + layout_.reach_at());
      scan.units = reinterpret_cast<const float*>(at.data + layout_.units_at());
      scan.codes = reinterpret_cast<const uint8_t*>(at.data + layout_.codes_at());
      const char* const next = s + 1 < last ? segment_head(b, s + 1, kv_head).data : at.data;
      scan.next = reinterpret_cast<const uint8_t*>(next + layout_.codes_at());
      scan.next_head = reinterpret_cast<const uint8_t*>(next);
      scan.quads = static_cast<int>(layout_.quads());
      scan.from = static_cast<int>(from);
      scan.to = static_cast<int>(used);
      scan.first = static_cast<int32_t>(s * rows);
      scan.queries = queries;
      scan.query_count = static_cast<int>(group_);
      kernels_.scan_rows(scan);
      for (int64_t g = 0; g < group_; g++) {
        if (queries[g].count >= scratch.enough[g] || queries[g].count > sizes_.room) {
          narrow(span.keep, shared(unit, g), scratch.sure, queries[g], found(unit, part, g));
          scratch.enough[g] = queries[g].count + span.keep;
        }
      }
    }
    join_part(unit, part, scratch);
    for (int64_t g = 0; g < group_; g++) {
      Found& to = found(unit, part, g);
      if (to.count < 0) continue;
      const float threshold = shared(unit, g).load(std::memory_order_relaxed);
      const auto may_count = [&](const Hit& hit) { return !(hit.high < threshold); };
      to.count = keep_if(queries[g].hits, queries[g].count, may_count, to.hits);
    }
  }

  // Raises the unit's thresholds to what as many rows of all parts so far surely reach as are wanted. It only saves
  // work: a task that would have to wait for another leaves its part to whoever looks at the keys.
  void join_part(int64_t unit, int64_t part, const Scratch& scratch) const {
    if (work_.joining[unit].exchange(true, std::memory_order_acquire)) return;
    for (int64_t g = 0; g < group_; g++) {
      join(unit, g, scratch.queries[g].hits, scratch.queries[g].count, scratch.sure);
      found(unit, part, g).joined = true;
    }
    work_.joining[unit].store(false, std::memory_order_release);
  }

  // `all` is room for what is known and the hits.
  void join(int64_t unit, int64_t member, const Hit* hits, int64_t count, float* all) const {
    const int64_t at = unit * group_ + member, keep = work_.spans[unit].keep;
    const float threshold = shared(unit, member).load(std::memory_order_relaxed);
    float* const known = std::copy_n(work_.sure + at * sizes_.keep, work_.sure_counts[at], all);
    float* end = known;
    for (int64_t i = 0; i < count; i++) {
      *end = hits[i].low;
      end += hits[i].low >= threshold;
    }
    if (end == known) return;
    if (end - all >= keep) {
      const float reached = kernels_.reached_by(all, end - all, keep);
      raise(shared(unit, member), reached);
      // All that lie above it, which are fewer, and as many at it as there is room for: others take nobody's place.
      end = all + keep_if(all, end - all, [&](float low) { return low > reached; }, all);
      std::fill(end, all + keep, reached);
      end = all + keep;
    }
    std::copy(all, end, work_.sure + at * sizes_.keep);
    work_.sure_counts[at] = end - all;
  }

  std::atomic<float>& shared(int64_t unit, int64_t member) const { return work_.thresholds[unit * group_ + member]; }

  static void raise(std::atomic<float>& threshold, float to) {
    float before = threshold.load(std::memory_order_relaxed);
    while (before < to && !threshold.compare_exchange_weak(before, to, std::memory_order_relaxed)) {
    }
  }

  // Copies those that are wanted, perhaps to where they are; returns how many. No jump depends on which.
  template <class T, class Wanted>
  static int64_t keep_if(const T* from, int64_t count, const Wanted& wanted, T* to) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
      const T each = from[i];
      to[kept] = each;
      kept += wanted(each);
    }
    return kept;
  }

  // Raises the threshold, also for the unit's other tasks, to what as many hits reach as are wanted, and drops the
  // rest.
  void narrow(int64_t keep, std::atomic<float>& shared, float* lows, ScanQuery& query, Found& found) const {
    Hit* const hits = query.hits;
    if (query.count >= keep) {
      for (int64_t i = 0; i < query.count; i++) lows[i] = hits[i].low;
      const float threshold = kernels_.reached_by(lows, query.count, keep);
      query.threshold = std::max(query.threshold, threshold);
      raise(shared, threshold);
    }
    const auto may_count = [threshold = query.threshold](const Hit& hit) { return !(hit.high < threshold); };
    query.count = keep_if(hits, query.count, may_count, hits);
    if (query.count <= sizes_.room) return;
    // Rows as good as each other, or that may be anything.
    if (paged_) {
      std::nth_element(hits, hits + keep, hits + query.count, better_row);
      query.count = keep;
    } else {
      found.count = -1;
      query.count = 0;
    }
  }

  void finish(int64_t unit, const Scratch& scratch, const Cancel& cancel) {
    const int64_t b = unit / kv_heads_, kv_head = unit % kv_heads_;
    const Span& span = work_.spans[unit];
    const int64_t rows = paged_ ? span.to - span.from : 0;
    std::fill_n(scratch.probed, rows, false);
    na_retrieve own = r_;
    own.top = span.top;
    std::optional<KeyWalk> walk;
    if (r_.graph && span.searched) {
      walk.emplace(own, keys_, kernels_.score_list, b, kv_head, work_.walks + unit * sizes_.walk);
      for (int64_t g = 0; g < group_; g++) scratch.columns[g] = query(b, kv_head * group_ + g).columns;
      walk->run(scratch.columns, span.from, span.to, cancel);
    }
    if (r_.out) begin_sums(unit, scratch, cancel);
    for (int64_t g = 0; g < group_ && !cancel.requested(); g++) {
      const int64_t chosen = span.top > 0 ? choose(unit, g, walk ? &*walk : nullptr, scratch) : 0;
      if (r_.ids) write_choices(b, kv_head * group_ + g, scratch.choices, chosen);
      if (r_.out) attend(b, kv_head * group_ + g, scratch, chosen);
    }
    if (cancel.requested()) return;
    if (r_.means) add_means(b, kv_head, scratch, cancel);
    for (int64_t g = 0; r_.out && g < group_; g++) write_out(b, kv_head * group_ + g, scratch.softmaxes[g]);
    int64_t touched = span.length;
    if (walk) {
      touched -= span.to - span.from - walk->scored();
    } else if (span.top == 0 && !r_.means) {
      touched -= span.end - span.sinks;
    } else if (paged_ && (span.searched || span.top == 0)) {
      touched -= std::max<int64_t>(0, span.covered_end() - span.sinks);
      for (int64_t i = 0; i < rows; i++) {
        if (scratch.probed[i]) each_key(b, kv_head, span.from + i, [&](int64_t) { touched++; });
      }
    }
    static_cast<int64_t*>(r_.touched->data)[unit] = touched;
  }

  // The best keys for a query head, as far as it is known which to look at; returns how many.
  int64_t choose(int64_t unit, int64_t member, const KeyWalk* walk, const Scratch& scratch) {
    const int64_t b = unit / kv_heads_, kv_head = unit % kv_heads_;
    const Span& span = work_.spans[unit];
    Chooser chooser{this, scratch, b, kv_head * group_ + member, span.top};
    if (!span.searched) {
      for (int64_t key = span.sinks; key < span.end; key++) chooser.add(key);
      return chooser.finish();
    }
    if (walk) {
      for (int64_t i = 0; i < walk->found_count(member); i++) chooser.add(walk->found(member)[i].key);
    } else if (paged_) {
      const int64_t count = best_rows(unit, member, span, scratch);
      for (int64_t i = 0; i < count; i++) {
        const int64_t row = scratch.rows[i].row;
        scratch.probed[row - span.from] = true;
        each_key(b, kv_head, row, [&](int64_t key) { chooser.add(key); });
      }
    } else {
      add_candidates(unit, member, span, scratch, chooser);
    }
    for (int64_t key = std::max(span.sinks, span.covered); key < span.end; key++) chooser.add(key);
    return chooser.finish();
  }

  // Keys of a row of the mirror that may be chosen.
  template <class Visit>
  void each_key(int64_t batch, int64_t kv_head, int64_t row, const Visit& visit) const {
    const Span& span = span_at(batch, kv_head);
    const int64_t segment = row / layout_.rows, first = segment * layout_.rows * r_.mirror.block;
    segment_head(batch, segment, kv_head).each_key(row % layout_.rows, [&](int64_t key) {
      if (first + key >= span.sinks && first + key < span.end) visit(first + key);
    });
  }

  // Scores keys, and keeps the best.
  struct Chooser {
    RetrieveJob* job;
    const Scratch& scratch;
    int64_t batch, head, top;
    int64_t waiting = 0, count = 0;
    bool full = false;  // once the last of the choices is the worst of as many as are wanted

    void add(int64_t key) { add_if(true, key); }
    void add_if(bool wanted, int64_t key) {
      scratch.keys[waiting] = static_cast<int32_t>(key);
      waiting += wanted;
      if (waiting == kChunk) flush();
    }
    void flush() {
      job->score(batch, head, scratch, waiting);
      const Choice worst = full ? scratch.choices[top - 1] : Choice{};
      for (int64_t i = 0; i < waiting; i++) {
        const Choice choice{scratch.keys[i], scratch.scores[i]};
        if (!full || before(choice, worst)) scratch.choices[count++] = choice;
      }
      waiting = 0;
      if (count > 2 * top) cut();
    }
    void cut() {
      if (count <= top) return;
      std::nth_element(scratch.choices, scratch.choices + top - 1, scratch.choices + count, before);
      count = top;
      full = true;
    }
    // How many were chosen, which are sorted.
    int64_t finish() {
      flush();
      cut();
      std::sort(scratch.choices, scratch.choices + count, before);
      return count;
    }
  };

  // The rows whose keys are looked at; returns how many.
  int64_t best_rows(int64_t unit, int64_t member, const Span& span, const Scratch& scratch) {
    const int64_t count = gather(unit, member, span.keep, scratch);
    if (!r_.mirror.clusters) return count;
    // Clusters have keys as they come: there may be more than enough of them.
    std::sort(scratch.rows, scratch.rows + count, better_row);
    int64_t taken = 0, keys = 0;
    for (; taken < count && (taken < span.share || keys < span.top); taken++) {
      each_key(unit / kv_heads_, unit % kv_heads_, scratch.rows[taken].row, [&](int64_t) { keys++; });
    }
    return taken;
  }

  // The first `keep` of what all parts have found, in no order; returns how many.
  int64_t gather(int64_t unit, int64_t member, int64_t keep, const Scratch& scratch) const {
    int64_t count = 0;
    const float threshold = shared(unit, member).load(std::memory_order_relaxed);
    const auto cut = [&] {
      if (count <= keep) return;
      std::nth_element(scratch.rows, scratch.rows + keep - 1, scratch.rows + count, better_row);
      count = keep;
    };
    for (int64_t part = 0; part < sizes_.parts; part++) {
      const Found& from = found(unit, part, member);
      for (int64_t i = 0; i < from.count; i++) {
        if (from.hits[i].high < threshold) continue;
        scratch.rows[count++] = from.hits[i];
        if (count == 2 * keep) cut();
      }
    }
    cut();
    return count;
  }

  // Rows that are keys: those that may be among the best.
  void add_candidates(int64_t unit, int64_t member, const Span& span, const Scratch& scratch, Chooser& chooser) const {
    for (int64_t part = 0; part < sizes_.parts; part++) {
      const Found& from = found(unit, part, member);
      if (!from.joined) join(unit, member, from.hits, from.count, scratch.sure);
    }
    const float threshold = shared(unit, member).load(std::memory_order_relaxed);
    for (int64_t part = 0; part < sizes_.parts; part++) {
      const Found& from = found(unit, part, member);
      if (from.count < 0) {
        const int64_t end = std::min(span.to, (part + 1) * sizes_.part_rows);
        for (int64_t row = std::max(span.from, part * sizes_.part_rows); row < end; row++) chooser.add(row);
      }
      for (int64_t i = 0; i < from.count; i++) chooser.add_if(!(from.hits[i].high < threshold), from.hits[i].row);
    }
  }

  // Of the first `count` of scratch.keys.
  void score(int64_t batch, int64_t head, const Scratch& scratch, int64_t count) {
    for (int64_t i = 0; i < count; i++) scratch.key_rows[i] = keys_.row(batch, scratch.keys[i], head / group_);
    kernels_.score_list(list_of(keys_, scratch.key_rows, count), query(batch, head).columns, scratch.scores);
  }

  static RowList list_of(const PageRows& of, const char* const* rows, int64_t count) {
    return {of.dtype, of.int8, of.columns, count, rows};
  }

  void write_choices(int64_t batch, int64_t head, const Choice* choices, int64_t count) const {
    const int64_t at = (batch * heads_ + head) * r_.top;
    int32_t* const ids = static_cast<int32_t*>(r_.ids->data) + at;
    float* const scores = static_cast<float*>(r_.scores->data) + at;
    for (int64_t i = 0; i < r_.top; i++) {
      ids[i] = i < count ? choices[i].key : -1;
      scores[i] = i < count ? choices[i].score : -kInfinity;
    }
  }

  Softmax empty_softmax(double* out) const {
    std::fill_n(out, sizes_.values, 0.0);
    return {-kInfinity, 0, out};
  }

  // Has the softmax count from the peak, if that is above its own.
  void raise(Softmax& softmax, float peak) const {
    if (!(peak > softmax.most)) return;
    const double shrink = std::exp(static_cast<double>(softmax.most) - static_cast<double>(peak));
    softmax.total *= shrink;
    for (int64_t d = 0; d < sizes_.values; d++) softmax.out[d] *= shrink;
    softmax.most = peak;
  }

  // Adds what another softmax has summed.
  void join(const Softmax& other, Softmax& softmax) const {
    raise(softmax, other.most);
    // Without a score above -infinity there are no sums, or no numbers.
    const double share =
        other.most == -kInfinity ? 1 : std::exp(static_cast<double>(other.most) - static_cast<double>(softmax.most));
    softmax.total += share * other.total;
    for (int64_t d = 0; d < sizes_.values; d++) softmax.out[d] += share * other.out[d];
  }

  // Adds list.rows, values of the scores at the beginning of scratch.scores.
  void add(RowList list, const Scratch& scratch, Softmax& softmax) const {
    float peak = softmax.most;
    for (int64_t i = 0; i < list.count; i++) peak = std::max(peak, scratch.scores[i]);
    raise(softmax, peak);
    const int64_t count = list.count;
    for (int64_t first = 0; first < count; first += kSumRows, list.rows += kSumRows) {
      list.count = std::min(kSumRows, count - first);
      for (int64_t i = 0; i < list.count; i++) {
        scratch.weights[i] = std::exp(scratch.scores[first + i] - softmax.zero());
        softmax.total += static_cast<double>(scratch.weights[i]);
      }
      std::fill_n(scratch.sums, sizes_.values, 0.0f);
      kernels_.add_list(list, scratch.weights, scratch.sums);
      for (int64_t d = 0; d < sizes_.values; d++) softmax.out[d] += static_cast<double>(scratch.sums[d]);
    }
  }

  // Adds keys [first, end) for all query heads of a unit: what is read serves all of them.
  void add_all(int64_t unit, int64_t first, int64_t end, const Scratch& scratch, Softmax* softmaxes,
               const Cancel& cancel) const {
    const int64_t b = unit / kv_heads_, kv_head = unit % kv_heads_;
    for (int64_t key = first; key < end && !cancel.requested(); key += kSumRows) {
      const int64_t count = std::min(kSumRows, end - key);
      for (int64_t i = 0; i < count; i++) {
        scratch.key_rows[i] = keys_.row(b, key + i, kv_head);
        scratch.value_rows[i] = values_.row(b, key + i, kv_head);
      }
      for (int64_t g = 0; g < group_; g++) {
        kernels_.score_list(list_of(keys_, scratch.key_rows, count), query(b, kv_head * group_ + g).columns,
                            scratch.scores);
        add(list_of(values_, scratch.value_rows, count), scratch, softmaxes[g]);
      }
    }
  }

  void attend_to_range(int64_t unit, int64_t range, const Scratch& scratch, const Cancel& cancel) const {
    const Span& span = work_.spans[unit];
    const int64_t first = (range - span.first_range) * span.range_keys;
    Softmax* const softmaxes = work_.range_sums + range * group_;
    for (int64_t g = 0; g < group_; g++) {
      softmaxes[g] = empty_softmax(work_.range_outs + (range * group_ + g) * sizes_.values);
    }
    add_all(unit, first, std::min(span.sinks, first + span.range_keys), scratch, softmaxes, cancel);
  }

  // The keys that always count.
  void begin_sums(int64_t unit, const Scratch& scratch, const Cancel& cancel) const {
    const Span& span = work_.spans[unit];
    for (int64_t g = 0; g < group_; g++) scratch.softmaxes[g] = empty_softmax(scratch.outs + g * sizes_.values);
    if (span.ranges == 0) add_all(unit, 0, span.sinks, scratch, scratch.softmaxes, cancel);
    for (int64_t i = span.first_range; i < span.first_range + span.ranges; i++) {
      for (int64_t g = 0; g < group_; g++) join(work_.range_sums[i * group_ + g], scratch.softmaxes[g]);
    }
  }

  // Adds the first `count` of scratch.keys, whose scores are known.
  void add_keys(int64_t batch, int64_t head, const Scratch& scratch, int64_t count) const {
    for (int64_t i = 0; i < count; i++) scratch.value_rows[i] = values_.row(batch, scratch.keys[i], head / group_);
    add(list_of(values_, scratch.value_rows, count), scratch, scratch.softmaxes[head % group_]);
  }

  // Adds what was chosen, or to estimate all keys that no mean stands for.
  void attend(int64_t batch, int64_t head, const Scratch& scratch, int64_t chosen) {
    if (r_.means) return attend_beside_means(batch, head, scratch, chosen);
    for (int64_t first = 0; first < chosen; first += kChunk) {
      const int64_t count = std::min(kChunk, chosen - first);
      for (int64_t i = 0; i < count; i++) {
        scratch.keys[i] = scratch.choices[first + i].key;
        scratch.scores[i] = scratch.choices[first + i].score;
      }
      add_keys(batch, head, scratch, count);
    }
  }

  void attend_beside_means(int64_t batch, int64_t head, const Scratch& scratch, int64_t chosen) {
    const Span& span = span_at(batch, head / group_);
    int64_t waiting = 0;
    const auto flush = [&] {
      score(batch, head, scratch, waiting);
      add_keys(batch, head, scratch, std::exchange(waiting, 0));
    };
    const auto add_key = [&](int64_t key) {
      scratch.keys[waiting++] = static_cast<int32_t>(key);
      if (waiting == kChunk) flush();
    };
    const bool* const seen = see_rows(batch, head, scratch, chosen);
    for (int64_t row = span.from; row < span.to; row++) {
      if (seen[row - span.from]) each_key(batch, head / group_, row, add_key);
    }
    for (int64_t key = std::max(span.sinks, span.covered); key < span.end; key++) add_key(key);
    flush();
  }

  // To estimate: the rows of which every key is attended to are those that have a key which was chosen, or one that
  // counts anyhow. So the others stand for exactly the keys that are left.
  const bool* see_rows(int64_t batch, int64_t head, const Scratch& scratch, int64_t chosen) const {
    const Span& span = span_at(batch, head / group_);
    const int64_t rows = span.to - span.from, segment = layout_.rows * r_.mirror.block;
    bool* const seen = scratch.seen + head % group_ * sizes_.seen;
    std::fill_n(seen, rows, false);
    const auto see = [&](int64_t key) {
      const SegmentHead of = segment_head(batch, key / segment, head / group_);
      const int64_t row = key / segment * layout_.rows + of.row_of(key % segment) - span.from;
      seen[row] = scratch.probed[row] = true;
    };
    for (int64_t i = 0; i < chosen; i++) {
      if (scratch.choices[i].key < span.covered) see(scratch.choices[i].key);
    }
    if (rows == 0) return seen;
    for (int64_t key = span.from * r_.mirror.block; key < span.sinks; key++) see(key);
    for (int64_t key = span.covered_end(); key < span.to * r_.mirror.block; key++) see(key);
    return seen;
  }

  // Rows of which no key counts by itself. The query heads of a unit share what is read.
  void add_means(int64_t batch, int64_t kv_head, const Scratch& scratch, const Cancel& cancel) {
    const Span& span = span_at(batch, kv_head);
    if (span.to == span.from) return;
    for (int64_t s = span.from / layout_.rows; s * layout_.rows < span.to && !cancel.requested(); s++) {
      const SegmentHead of = segment_head(batch, s, kv_head);
      const char* const means = static_cast<const char*>(r_.means[batch][s]) + kv_head * means_.head_bytes();
      const int64_t first = s * layout_.rows, from = std::max(span.from, first),
                    to = std::min(span.to, first + of.used());
      for (int64_t g = 0; g < group_; g++) {
        const bool* const seen = scratch.seen + g * sizes_.seen;
        int64_t count = 0;
        for (int64_t row = from; row < to; row++) {
          if (seen[row - span.from]) continue;
          scratch.keys[count] = static_cast<int32_t>(of.key_count(row - first));
          scratch.key_rows[count] = means + means_.key_at(row - first);
          scratch.value_rows[count++] = means + means_.value_at(row - first);
        }
        kernels_.score_list({NA_FLOAT32, false, keys_.columns, count, scratch.key_rows},
                            query(batch, kv_head * group_ + g).columns, scratch.scores);
        for (int64_t i = 0; i < count; i++) scratch.scores[i] += std::log(static_cast<float>(scratch.keys[i]));
        add({NA_FLOAT32, false, values_.columns, count, scratch.value_rows}, scratch, scratch.softmaxes[g]);
      }
    }
  }

  void write_out(int64_t batch, int64_t head, const Softmax& softmax) const {
    const int64_t row = batch * heads_ + head;
    for (int64_t d = 0; d < values_.columns; d++) {
      const double mean = softmax.total == 0 ? 0 : softmax.out[d] / softmax.total;
      store_element(*r_.out, row * values_.columns + d, static_cast<float>(mean));
    }
    static_cast<float*>(r_.lse->data)[row] =
        softmax.total == 0 ? -kInfinity
                           : static_cast<float>(static_cast<double>(softmax.zero()) + std::log(softmax.total));
  }

  const na_retrieve& r_;
  const Kernels kernels_;
  const PageRows keys_, values_;
  const int64_t heads_, kv_heads_, group_;
  const bool paged_;  // a row is several keys
  const MirrorLayout layout_;
  const MeansLayout means_;
  const int64_t part_segments_;
  const Sizes sizes_;
  const Workspace work_;
};

}  // namespace

void retrieve_bytes(const na_retrieve& retrieve, int64_t* workspace, size_t* scratch) {
  const RetrieveJob job(retrieve, Isa::kGeneric);
  *workspace = job.workspace_bytes();
  *scratch = job.scratch_bytes();
}

std::unique_ptr<Job> retrieve_job(const na_retrieve& retrieve, Isa isa) {
  return std::make_unique<RetrieveJob>(retrieve, isa);
}

}  // namespace na::cpu
