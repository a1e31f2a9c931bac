#include "cpu/select.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/dtype.h"
#include "core/narrow.h"
#include "core/plan_rows.h"
#include "cpu/executor/problem.h"
#include "cpu/pooling.h"

namespace na::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

float element(const char* row, int32_t dtype, int64_t at) {
  return with_type(dtype, [&](auto* type) {
    using Type = std::remove_pointer_t<decltype(type)>;
    Type value;
    memcpy(&value, row + at * static_cast<int64_t>(sizeof(Type)), sizeof(Type));
    return static_cast<float>(widen(value));
  });
}

void set_element(char* row, int32_t dtype, int64_t at, float value) {
  with_type(dtype, [&](auto* type) {
    using Type = std::remove_pointer_t<decltype(type)>;
    const Type narrowed = narrow<Type>(value);
    memcpy(row + at * static_cast<int64_t>(sizeof(Type)), &narrowed, sizeof(Type));
  });
}

using Score = void (*)(const BestScores&);

Score score_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return best_scores_avx2;
    case Isa::kAvx512: return best_scores_avx512;
    case Isa::kAmx: return best_scores_amx;
#endif
    default: return best_scores_generic;
  }
}

// Rows of queries, or of what was made of them.
struct Queries {
  int32_t dtype;
  int head_dim;
  std::vector<const char*> rows;
  std::vector<char> made;  // memory of rows that are in no tensor

  // Rows of its own, of elements that the caller sets.
  void make(size_t count) {
    const size_t bytes = static_cast<size_t>(head_dim) * static_cast<size_t>(dtype_size(dtype));
    made.resize(count * bytes);
    rows.resize(count);
    for (size_t i = 0; i < count; i++) rows[i] = made.data() + i * bytes;
  }
  void set(size_t row, int64_t at, float value) {
    set_element(made.data() + (rows[row] - made.data()), dtype, at, value);
  }
};

// The memory of one row's selection.
struct Scratch {
  std::vector<const char*> keys;
  std::vector<float> packed, best;
};

// Which of `scores` are the `count` highest, ties to the earlier; ascending.
std::vector<int64_t> highest(const std::vector<float>& scores, int64_t count) {
  std::vector<int64_t> order(scores.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int64_t>(i);
  if (count >= static_cast<int64_t>(order.size())) return order;
  const auto before = [&](int64_t a, int64_t b) {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::nth_element(order.begin(), order.begin() + count, order.end(), before);
  order.resize(static_cast<size_t>(count));
  std::sort(order.begin(), order.end());
  return order;
}

// What is no number counts for nothing.
float sane(float score) { return score == score ? score : -kInfinity; }

class SelectJob final : public Job {
 public:
  SelectJob(const na_select& select, Isa isa)
      : select_(select), shape_(*select.out), q_(*select.q), k_(*select.k), score_(score_of(isa)) {
    heads_ = select.q->shape[select.q->rank - 2];
    kv_heads_ = select.k->shape[select.k->rank - 2];
  }

  int64_t prepare() override {
    const na_plan& out = *select_.out;
    const int64_t rows = out.offsets->shape[0] - 1;
    begin_.resize(static_cast<size_t>(rows) + 1);
    count_.resize(static_cast<size_t>(rows));
    // Each row has room for all it may list; what it does not need is closed up in the end.
    for (int64_t row = 0; row < rows; row++) {
      const SelectedRow here = row_of(row);
      const int64_t most = std::min(here.open_count(), select_.budgets[row / shape_.tiles() % out.heads]);
      begin_[static_cast<size_t>(row) + 1] = begin_[static_cast<size_t>(row)] + here.always_count() + most;
    }
    left_ = rows;
    return rows;
  }

  // Later rows have more to choose from, and go first.
  void run(int64_t task, void*, const Cancel&) override {
    const int64_t row = static_cast<int64_t>(count_.size()) - 1 - task;
    write_row(row);
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) close_up();
  }

 private:
  SelectedRow row_of(int64_t row) const {
    return SelectedRow(shape_, row % shape_.tiles(), select_.sink, select_.window);
  }

  void write_row(int64_t row) {
    const int64_t tile = row % shape_.tiles(), pattern = row / shape_.tiles() % select_.out->heads;
    const int64_t batch = row / shape_.tiles() / select_.out->heads;
    const SelectedRow here = row_of(row);
    const int64_t budget = select_.budgets[pattern];
    std::vector<int64_t> chosen;
    if (here.open_count() <= budget && select_.top_p >= 1 && select_.threshold <= 0) {
      for (int64_t i = 0; i < here.open_count(); i++) chosen.push_back(here.open_block(i));
    } else if (budget > 0) {
      Row given = {batch, pattern, tile, budget, here};
      switch (select_.selector) {
        case NA_SELECT_HIP: chosen = hip(given); break;
        case NA_SELECT_BISECTION: chosen = bisect(given); break;
        default: chosen = pooled(given);
      }
    }
    for (const BlockRange& range : here.always) {
      for (int64_t block = range.begin; block < range.end; block++) chosen.push_back(block);
    }
    std::sort(chosen.begin(), chosen.end());
    uint32_t* to = entries() + begin_[static_cast<size_t>(row)];
    for (const bool full : {true, false}) {
      for (int64_t block : chosen) {
        const na_entry_kind kind = shape_.kind_of(tile, block);
        if ((kind == NA_ENTRY_FULL) == full) *to++ = plan_entry(block, kind);
      }
    }
    count_[static_cast<size_t>(row)] = static_cast<int64_t>(chosen.size());
  }

  void close_up() {
    auto* offsets = static_cast<int32_t*>(select_.out->offsets->data);
    int64_t end = 0;
    for (size_t row = 0; row < count_.size(); row++) {
      offsets[row] = static_cast<int32_t>(end);
      if (end != begin_[row]) {
        memmove(entries() + end, entries() + begin_[row], static_cast<size_t>(count_[row]) * sizeof(uint32_t));
      }
      end += count_[row];
    }
    offsets[count_.size()] = static_cast<int32_t>(end);
  }

  uint32_t* entries() const { return static_cast<uint32_t*>(select_.out->entries->data); }

  struct Row {
    int64_t batch, pattern, tile, budget;
    const SelectedRow& open;
  };

  // The query heads of a pattern are [first, end).
  int64_t first_head(int64_t pattern) const { return pattern * heads_ / select_.out->heads; }
  int64_t kv_head(int64_t head) const { return head / (heads_ / kv_heads_); }

  // The queries of one head in a row; `together` of them, or those that are left, become their mean.
  Queries queries_of(const Row& row, int64_t head, int64_t together) const {
    const int64_t first = shape_.first_query(row.tile), end = shape_.end_query(row.tile);
    Queries queries = {q_.dtype, q_.head_dim, {}, {}};
    if (together == 1) {
      for (int64_t query = first; query < end; query++) queries.rows.push_back(q_.row(row.batch, query, head));
      return queries;
    }
    queries.make(static_cast<size_t>(ceil_div(end - first, together)));
    for (size_t i = 0; i < queries.rows.size(); i++) {
      const int64_t from = first + static_cast<int64_t>(i) * together, to = std::min(from + together, end);
      for (int d = 0; d < q_.head_dim; d++) {
        float sum = 0;
        for (int64_t query = from; query < to; query++) sum += element(q_.row(row.batch, query, head), q_.dtype, d);
        queries.set(i, d, sum / static_cast<float>(to - from));
      }
    }
    return queries;
  }

  // scratch.best of scratch.keys.
  void score(const Queries& queries, Scratch& scratch) const {
    const size_t count = scratch.keys.size(), padded = (count + kStrip - 1) / kStrip * kStrip;
    if (count == 0) return;
    scratch.keys.resize(padded, scratch.keys[count - 1]);
    scratch.best.resize(padded);
    scratch.packed.resize(queries.rows.size() * static_cast<size_t>(packed_pitch(queries.head_dim)));
    score_({queries.dtype, queries.head_dim, scratch.keys.data(), static_cast<int>(count), queries.rows.data(),
            static_cast<int>(queries.rows.size()), scratch.packed.data(), scratch.best.data()});
  }

  // InfiniteHiP: in each stage every chunk finds its best key by itself, going down into the better half, and the best
  // chunks are cut into those of the next stage.
  std::vector<int64_t> hip(const Row& row) const {
    constexpr int64_t kTogether = 4;  // queries whose mean stands for them, but in the last stage
    const int64_t limit = shape_.visible_keys(shape_.end_query(row.tile) - 1), block = shape_.key_block;
    std::vector<int64_t> chunks;
    Scratch scratch;
    for (int32_t stage = 0; stage < select_.stages; stage++) {
      const int64_t size = select_.chunk[stage],
                    before = stage ? select_.chunk[stage - 1] : ceil_div(limit, size) * size;
      std::vector<int64_t> parts;
      if (stage == 0) chunks = {0};
      for (int64_t chunk : chunks) {
        for (int64_t at = chunk; at < std::min(chunk + before, limit); at += size) {
          if (row.open.any_open(at / block, (at + size) / block)) parts.push_back(at);
        }
      }
      const bool last = stage + 1 == select_.stages;
      const int64_t keep = last ? row.budget : ceil_div(kept_keys(row, stage), size);
      chunks.clear();
      if (static_cast<int64_t>(parts.size()) <= keep) {
        chunks = std::move(parts);
        continue;
      }
      std::vector<float> scores(parts.size(), -kInfinity);
      for (int64_t head = first_head(row.pattern); head < first_head(row.pattern + 1); head++) {
        descend(row, head, queries_of(row, head, last ? 1 : kTogether), parts, size, limit, scratch, scores);
      }
      for (int64_t index : highest(scores, keep)) chunks.push_back(parts[static_cast<size_t>(index)]);
    }
    for (int64_t& chunk : chunks) chunk /= block;
    return chunks;
  }

  int64_t kept_keys(const Row& row, int32_t stage) const {
    if (select_.keep[stage] > 0) return select_.keep[stage];
    int64_t keys = row.budget * shape_.key_block;
    for (int32_t later = stage + 1; later < select_.stages; later++) keys *= 4;
    return keys;
  }

  // Raises the score of each chunk to that of the best representative on its way down.
  void descend(const Row& row, int64_t head, const Queries& queries, const std::vector<int64_t>& chunks, int64_t size,
               int64_t limit, Scratch& scratch, std::vector<float>& scores) const {
    std::vector<BlockRange> ranges;  // of keys
    for (int64_t chunk : chunks) ranges.push_back({chunk, std::min(chunk + size, limit)});
    const char* keys = k_.row(row.batch, 0, kv_head(head));
    std::vector<size_t> active;
    for (bool once = true;; once = false) {
      active.clear();
      scratch.keys.clear();
      for (size_t i = 0; i < ranges.size(); i++) {
        const BlockRange& range = ranges[i];
        if (range.end - range.begin < 2 && !once) continue;
        const int64_t middle = (range.begin + range.end) / 2;
        active.push_back(i);
        for (const BlockRange half : {BlockRange{range.begin, std::max(middle, range.begin + 1)},
                                      BlockRange{std::min(middle, range.end - 1), range.end}}) {
          const int64_t stands = select_.first ? half.begin : (half.begin + half.end) / 2;
          scratch.keys.push_back(keys + stands * k_.token);
        }
      }
      if (active.empty()) return;
      score(queries, scratch);
      for (size_t i = 0; i < active.size(); i++) {
        const float left = sane(scratch.best[2 * i]), right = sane(scratch.best[2 * i + 1]);
        scores[active[i]] = std::max({scores[active[i]], left, right});
        BlockRange& range = ranges[active[i]];
        const int64_t middle = (range.begin + range.end) / 2;
        if (left >= right) {
          range.end = std::max(middle, range.begin + 1);
        } else {
          range.begin = std::min(middle, range.end - 1);
        }
      }
    }
  }

  // HiP: as many nodes as blocks are wanted, of which each is bisected and the better half of all is kept.
  std::vector<int64_t> bisect(const Row& row) const {
    std::vector<BlockRange> nodes, halves;  // of blocks that may be chosen, by index
    const int64_t count = row.open.open_count();
    for (int64_t i = 0; i < row.budget; i++) {
      nodes.push_back({i * count / row.budget, (i + 1) * count / row.budget});
    }
    Scratch scratch;
    for (;;) {
      halves.clear();
      bool more = false;
      for (const BlockRange& node : nodes) {
        const int64_t middle = (node.begin + node.end) / 2;
        if (node.end - node.begin < 2) {
          halves.push_back(node);
        } else {
          halves.push_back({node.begin, middle});
          halves.push_back({middle, node.end});
          more = true;
        }
      }
      if (!more) break;
      std::vector<float> scores(halves.size(), -kInfinity);
      for (int64_t head = first_head(row.pattern); head < first_head(row.pattern + 1); head++) {
        scratch.keys.clear();
        for (const BlockRange& half : halves) {
          const int64_t index = select_.first ? half.begin : (half.begin + half.end) / 2;
          const int64_t block = row.open.open_block(std::min(index, half.end - 1));
          const int64_t key = (block * shape_.key_block + shape_.end_key(block)) / 2;
          scratch.keys.push_back(k_.row(row.batch, key, kv_head(head)));
        }
        score(queries_of(row, head, 1), scratch);
        for (size_t i = 0; i < scores.size(); i++) scores[i] = std::max(scores[i], sane(scratch.best[i]));
      }
      nodes.clear();
      for (int64_t index : highest(scores, row.budget)) nodes.push_back(halves[static_cast<size_t>(index)]);
    }
    std::vector<int64_t> blocks;
    for (const BlockRange& node : nodes) blocks.push_back(row.open.open_block(node.begin));
    return blocks;
  }

  // By the products of queries with pooled keys; with bounds, by what no key of the block exceeds.
  std::vector<int64_t> pooled(const Row& row) const {
    const na_tensor& table = *select_.pooled;
    const int64_t blocks = table.shape[1], features = table.shape[3], count = row.open.open_count();
    std::vector<float> scores(static_cast<size_t>(count), -kInfinity);
    Scratch scratch;
    for (int64_t head = first_head(row.pattern); head < first_head(row.pattern + 1); head++) {
      const int64_t together = select_.mean_query ? shape_.query_tile : 1;
      const Queries given = queries_of(row, head, together);
      Queries queries = {NA_FLOAT32, static_cast<int>(features), {}, {}};
      queries.make(given.rows.size());
      for (size_t i = 0; i < given.rows.size(); i++) {
        for (int d = 0; d < q_.head_dim; d++) {
          const float value = element(given.rows[i], q_.dtype, d);
          queries.set(i, d, select_.bounds ? std::max(value, 0.0f) : value);
          if (select_.bounds) queries.set(i, q_.head_dim + d, std::min(value, 0.0f));
        }
      }
      scratch.keys.clear();
      for (int64_t i = 0; i < count; i++) {
        const int64_t at = (row.batch * blocks + row.open.open_block(i)) * kv_heads_ + kv_head(head);
        scratch.keys.push_back(static_cast<const char*>(table.data) + at * features * 4);
      }
      score(queries, scratch);
      for (size_t i = 0; i < scores.size(); i++) scores[i] = std::max(scores[i], sane(scratch.best[i]));
    }
    std::vector<int64_t> chosen = highest(scores, row.budget);
    if (select_.top_p < 1 || select_.threshold > 0) keep_shares(scores, chosen);
    for (int64_t& index : chosen) index = row.open.open_block(index);
    return chosen;
  }

  // Of what is chosen, those that make up top_p of the softmax over all scores, and whose own share is large enough.
  void keep_shares(const std::vector<float>& scores, std::vector<int64_t>& chosen) const {
    float top = -kInfinity;
    for (float score : scores) top = std::max(top, score * select_.scale);
    if (top == -kInfinity) return;
    const auto weight = [&](int64_t index) {
      return std::exp(static_cast<double>(scores[static_cast<size_t>(index)] * select_.scale - top));
    };
    double total = 0;
    for (size_t i = 0; i < scores.size(); i++) total += weight(static_cast<int64_t>(i));
    std::stable_sort(chosen.begin(), chosen.end(), [&](int64_t a, int64_t b) { return weight(a) > weight(b); });
    double sum = 0;
    size_t kept = 0;
    for (; kept < chosen.size() && (select_.top_p >= 1 || sum < static_cast<double>(select_.top_p) * total); kept++) {
      const double own = weight(chosen[kept]);
      if (own < static_cast<double>(select_.threshold) * total) break;
      sum += own;
    }
    chosen.resize(kept);
  }

  const na_select& select_;
  const PlanShape shape_;
  const TokenRows q_, k_;
  const Score score_;
  int64_t heads_, kv_heads_;
  std::vector<int64_t> begin_, count_;  // of each row: where it has its room, and how many words it took
  std::atomic<int64_t> left_{0};        // rows that are not yet written
};

}  // namespace

std::unique_ptr<Job> select_job(const na_select& select, Isa isa) { return std::make_unique<SelectJob>(select, isa); }

}  // namespace na::cpu
