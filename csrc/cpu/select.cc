#include "cpu/select.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "core/ceil_div.h"
#include "core/dtype.h"
#include "core/hip_stages.h"
#include "core/narrow.h"
#include "core/plan_rows.h"
#include "cpu/executor/problem.h"
#include "cpu/page_rows.h"
#include "cpu/pooling.h"
#include "cpu/summary_rows.h"

namespace na::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What rows are folded into: their sum, maxima or minima.
float neutral(int32_t pooling) {
  return pooling == NA_POOL_MAX ? -kInfinity : pooling == NA_POOL_MIN ? kInfinity : 0.0f;
}

// What is no number is neither a maximum nor a minimum.
void fold_row(const char* row, int32_t dtype, int count, int32_t pooling, float* to) {
  with_type(dtype, [&](auto* type) {
    using Type = std::remove_pointer_t<decltype(type)>;
    for (int d = 0; d < count; d++) {
      Type element;
      memcpy(&element, row + d * static_cast<int64_t>(sizeof(Type)), sizeof(Type));
      const auto value = static_cast<float>(widen(element));
      switch (pooling) {
        case NA_POOL_MAX: to[d] = value > to[d] ? value : to[d]; break;
        case NA_POOL_MIN: to[d] = value < to[d] ? value : to[d]; break;
        default: to[d] += value;
      }
    }
  });
}

// Rows of queries, or of what was made of them.
class Queries {
 public:
  Queries(int32_t dtype, int head_dim) : dtype(dtype), head_dim(head_dim) {}

  void add(const char* row) { rows.push_back(row); }
  // Room for rows of its own, which set() fills.
  void make(size_t count) {
    made_.resize(count * row_bytes());
    for (size_t i = 0; i < count; i++) rows.push_back(made_.data() + i * row_bytes());
  }
  void set(size_t row, const std::vector<float>& values) {
    with_type(dtype, [&](auto* type) {
      using Type = std::remove_pointer_t<decltype(type)>;
      for (size_t d = 0; d < values.size(); d++) {
        const Type value = narrow<Type>(values[d]);
        memcpy(made_.data() + row * row_bytes() + d * sizeof(Type), &value, sizeof(Type));
      }
    });
  }

  const int32_t dtype;
  const int head_dim;
  std::vector<const char*> rows;

 private:
  size_t row_bytes() const { return static_cast<size_t>(head_dim) * static_cast<size_t>(dtype_size(dtype)); }
  std::vector<char> made_;
};

// The functions of an instruction set.
struct Scoring {
  void (*pack)(const BestScores&);
  void (*score)(const BestScores&);
};

Scoring scoring_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return {pack_best_avx2, best_scores_avx2};
    case Isa::kAvx512: return {pack_best_avx512, best_scores_avx512};
    case Isa::kAmx: return {pack_best_amx, best_scores_amx};
#endif
    default: return {pack_best_generic, best_scores_generic};
  }
}

// What is no number counts for nothing.
float sane(float score) { return std::max(-kInfinity, score); }

// Rows of keys of one head.
struct HeadKeys {
  const char* data;    // without pages: of the first token
  void* const* pages;  // or NULL
  uint32_t page_tokens;
  int64_t token, offset;  // bytes; the offset from the beginning of a page

  // A division of 32 bits takes less: tokens are 2^30 at most.
  const char* row(int64_t at) const {
    if (!pages) return data + at * token;
    const auto index = static_cast<uint32_t>(at);
    return static_cast<const char*>(pages[index / page_tokens]) + offset + index % page_tokens * token;
  }
};

// Rows of keys, of tokens that are evenly spaced or lie in pages.
class KeyRows {
 public:
  KeyRows(const na_tensor& k, const na_pages* pages) : plain_(k) {
    if (pages) paged_.emplace(k, *pages, 0);
  }

  HeadKeys of(int64_t batch, int64_t head) const {
    if (!paged_) return {plain_.data + batch * plain_.batch + head * plain_.head, nullptr, 1, plain_.token, 0};
    const na_pages& pages = paged_->pages;
    return {nullptr, pages.tables[batch], static_cast<uint32_t>(pages.page_tokens), paged_->token, head * paged_->head};
  }
  const char* row(int64_t batch, int64_t token, int64_t head) const { return of(batch, head).row(token); }
  bool int8() const { return paged_ && paged_->int8; }
  int64_t row_bytes() const { return paged_ ? paged_->head : plain_.head_dim * dtype_size(plain_.dtype); }

 private:
  const TokenRows plain_;
  std::optional<PageRows> paged_;
};

// Scores keys by the largest of their products with some queries.
class Scorer {
 public:
  // `int8`: keys are rows of int8 (na_pages), which are widened to the type of the queries.
  Scorer(const Scoring& scoring, Queries queries, bool int8 = false)
      : scoring_(scoring), int8_(int8), queries_(std::move(queries)) {
    constexpr size_t kAlignment = 64;
    const auto count = static_cast<int>(queries_.rows.size());
    packed_.resize(static_cast<size_t>(packed_floats(count, queries_.head_dim)) + kAlignment / sizeof(float));
    const size_t over = reinterpret_cast<uintptr_t>(packed_.data()) % kAlignment;
    call_ = {queries_.dtype,
             queries_.head_dim,
             queries_.rows.data(),
             count,
             packed_.data() + (kAlignment - over) % kAlignment / sizeof(float),
             nullptr,
             0,
             nullptr};
    scoring_.pack(call_);
  }
  Scorer(Scorer&&) = default;

  std::vector<const char*> keys;  // to be scored
  void run() {
    const size_t count = keys.size(), padded = (count + kStrip - 1) / kStrip * kStrip;
    if (count == 0) return;
    keys.resize(padded, keys[count - 1]);
    best_.resize(padded);
    const size_t together = int8_ ? kWidened : padded;
    for (size_t first = 0; first < padded; first += together) {
      const size_t end = std::min(first + together, padded);
      if (int8_) widen_keys(first, end);
      call_.keys = keys.data() + first;
      call_.key_count = static_cast<int>(end - first);
      call_.best = best_.data() + first;
      scoring_.score(call_);
    }
  }
  float operator[](size_t key) const { return sane(best_[key]); }

 private:
  static constexpr size_t kWidened = 8 * kStrip;  // keys at once

  void widen_keys(size_t first, size_t end) {
    with_type(queries_.dtype, [&](auto* type) {
      using Type = std::remove_pointer_t<decltype(type)>;
      const auto columns = static_cast<size_t>(queries_.head_dim);
      wide_.resize(kWidened * columns * sizeof(Type));
      for (size_t key = first; key < end; key++) {
        auto* const to = reinterpret_cast<Type*>(wide_.data()) + (key - first) * columns;
        widen_int8(keys[key], queries_.head_dim, 0, queries_.head_dim, to);
        keys[key] = reinterpret_cast<const char*>(to);
      }
    });
  }

  const Scoring scoring_;
  const bool int8_;
  Queries queries_;
  std::vector<float> packed_, best_;
  std::vector<char> wide_;
  BestScores call_;
};

// What about as many of `scores` reach as are among the `count` highest, rather more, by a sample of them.
float about_reached(const std::vector<float>& scores, size_t count) {
  constexpr size_t kEvery = 16;
  std::vector<float> sample;
  for (size_t i = 0; i < scores.size(); i += kEvery) sample.push_back(scores[i]);
  const double expected = static_cast<double>(count) / kEvery;
  const auto rank = static_cast<size_t>(expected + 3 * std::sqrt(expected) + 2);
  if (rank >= sample.size()) return -kInfinity;
  std::nth_element(sample.begin(), sample.begin() + static_cast<int64_t>(rank), sample.end(), std::greater<float>());
  return sample[rank];
}

// Which of `scores` are the `count` highest, ties to the earlier; ascending.
std::vector<int64_t> highest(const std::vector<float>& scores, int64_t count) {
  const size_t all = scores.size(), wanted = std::min(all, static_cast<size_t>(count));
  std::vector<int64_t> order(all);
  const auto list = [&](float least) {
    size_t listed = 0;
    // Without a branch, which nobody could predict.
    for (size_t i = 0; i < all; i++) {
      order[listed] = static_cast<int64_t>(i);
      listed += scores[i] >= least;
    }
    return listed;
  };
  size_t listed = wanted < all ? list(about_reached(scores, wanted)) : 0;
  if (listed < wanted) listed = list(-kInfinity);
  if (wanted == all) return order;
  order.resize(listed);
  const auto before = [&](int64_t a, int64_t b) {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::nth_element(order.begin(), order.begin() + count, order.end(), before);
  order.resize(wanted);
  std::sort(order.begin(), order.end());
  return order;
}

class SelectJob final : public Job {
 public:
  SelectJob(const na_select& select, Isa isa)
      : select_(select), shape_(*select.out), q_(*select.q), k_(*select.k, select.pages), scoring_(scoring_of(isa)) {
    heads_ = select.q->shape[select.q->rank - 2];
    kv_heads_ = select.k->shape[select.k->rank - 2];
    for (int64_t blocks : select.level_budgets) by_means_ += blocks;
  }

  int64_t prepare() override {
    const na_plan& out = *select_.out;
    const int64_t rows = plan_rows(out);
    begin_.resize(static_cast<size_t>(rows) + 1);
    count_.resize(static_cast<size_t>(rows));
    // Each row has room for all it may list; what it does not need is closed up in the end, unless rows are even.
    for (int64_t row = 0; row < rows; row++) {
      const int64_t budget = select_.budgets[row / shape_.tiles() % out.heads], tile = row % shape_.tiles();
      const PlanShape shape = own_shape(batch_of(row));
      const int64_t room = select_.per_query
                               ? kWordsOfBitmap * room_of_queries(shape, tile, select_.sink, select_.window, budget)
                               : SelectedRow(shape, tile, select_.sink, select_.window).most(budget + by_means_);
      begin_[static_cast<size_t>(row) + 1] = begin_[static_cast<size_t>(row)] + room;
    }
    left_ = rows;
    return rows;
  }

  // Later rows have more to choose from, and go first.
  void run(int64_t task, void*, const Cancel&) override {
    const int64_t row = static_cast<int64_t>(count_.size()) - 1 - task;
    if (select_.per_query) {
      write_queries(row);
    } else {
      write_row(row);
    }
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1 && select_.out->offsets) close_up();
  }

 private:
  int64_t batch_of(int64_t row) const { return row / shape_.tiles() / select_.out->heads; }

  // As if the plan were for the keys of this batch entry alone.
  PlanShape own_shape(int64_t batch) const {
    return select_.pages ? shape_.with_keys(select_.pages->lengths[batch]) : shape_;
  }

  struct Means {
    int64_t block;
    int level;
  };

  // The blocks that are listed for a tile of `shape`, ascending, and in `means` those that count by means.
  std::vector<int64_t> blocks_of(int64_t row, int64_t tile, const PlanShape& shape, std::vector<Means>* means) const {
    const int64_t pattern = row / shape_.tiles() % select_.out->heads;
    const SelectedRow here(shape, tile, select_.sink, select_.window);
    const int64_t budget = select_.budgets[pattern];
    const Row given = {row, batch_of(row), pattern, tile, budget, here, shape};
    std::vector<int64_t> chosen;
    if (here.open_count() <= budget && select_.top_p >= 1 && select_.threshold <= 0) {
      for (int64_t i = 0; i < here.open_count(); i++) chosen.push_back(here.open_block(i));
      keep_nothing(given);
    } else if (budget == 0 && by_means_ == 0) {
      keep_nothing(given);
    } else {
      switch (select_.selector) {
        case NA_SELECT_HIP: chosen = hip(given); break;
        case NA_SELECT_BISECTION: chosen = bisect(given); break;
        default: chosen = pooled(given, means);
      }
    }
    for (const BlockRange& range : here.always) {
      for (int64_t block = range.begin; block < range.end; block++) chosen.push_back(block);
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

  void write_row(int64_t row) {
    const int64_t tile = row % shape_.tiles();
    std::vector<Means> means;
    const std::vector<int64_t> chosen = blocks_of(row, tile, own_shape(batch_of(row)), &means);
    uint32_t* to = entries() + begin_[static_cast<size_t>(row)];
    uint32_t* const end = to + select_.out->row_words;
    for (const bool full : {true, false}) {
      for (int64_t block : chosen) {
        const na_entry_kind kind = shape_.kind_of(tile, block);
        if ((kind == NA_ENTRY_FULL) == full) *to++ = plan_entry(block, kind);
      }
    }
    std::sort(means.begin(), means.end(), [](const Means& a, const Means& b) { return a.block < b.block; });
    for (const Means& of : means) *to++ = plan_entry(of.block, shape_.kind_of(tile, of.block), of.level);
    count_[static_cast<size_t>(row)] = static_cast<int64_t>(chosen.size() + means.size());
    if (!select_.out->offsets) std::fill(to, end, NA_NO_WORD);
  }

  // Each query of a row selects for itself: the row lists what any of them has selected, with a bitmap where it is not
  // all who may see the block.
  void write_queries(int64_t row) {
    const int64_t tile = row % shape_.tiles(), first = shape_.first_query(tile), end = shape_.end_query(tile);
    const PlanShape shape = own_shape(batch_of(row)), single = single_queries(shape);
    const int64_t words = shape_.query_words(), blocks = shape.visible_blocks(tile);
    std::vector<uint32_t> seen(static_cast<size_t>(blocks * words));  // of each block, by whom
    for (int64_t query = first; query < end; query++) {
      const int64_t bit = query - first;
      for (int64_t block : blocks_of(row, query, single, nullptr))
        seen[block * words + bit / 32] |= uint32_t{1} << bit % 32;
    }
    uint32_t* const begin = entries() + begin_[static_cast<size_t>(row)];
    uint32_t* to = begin;
    int64_t bitmap = begin_[static_cast<size_t>(row)] / kWordsOfBitmap;
    for (const bool full : {true, false}) {
      for (int64_t block = 0; block < blocks; block++) {
        const uint32_t* const queries = &seen[static_cast<size_t>(block * words)];
        if (std::all_of(queries, queries + words, [](uint32_t word) { return word == 0; })) continue;
        const na_entry_kind kind = all_see(shape, tile, block, queries) ? shape_.kind_of(tile, block) : NA_ENTRY_BITMAP;
        if ((kind == NA_ENTRY_FULL) != full) continue;
        *to++ = plan_entry(block, kind);
        if (kind != NA_ENTRY_BITMAP) continue;
        write_bitmap(bitmap, queries);
        *to++ = static_cast<uint32_t>(bitmap++);
      }
    }
    count_[static_cast<size_t>(row)] = to - begin;
  }

  // The same queries see every key. Bitmaps between those of one row and of the next, and behind the last, stay as the
  // memory was: only by an entry does anybody come to a bitmap, and the words of a plan are nowhere shown or saved.
  void write_bitmap(int64_t index, const uint32_t* queries) const {
    const int64_t words = shape_.query_words();
    auto* to = static_cast<uint32_t*>(select_.out->bitmaps->data) + index * shape_.key_block * words;
    for (int64_t key = 0; key < shape_.key_block; key++, to += words) std::copy_n(queries, words, to);
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
    int64_t index, batch, pattern, tile, budget;
    const SelectedRow& open;
    const PlanShape shape;
  };

  // The query heads of a pattern are [first, end).
  int64_t first_head(int64_t pattern) const { return pattern * heads_ / select_.out->heads; }
  int64_t kv_head(int64_t head) const { return head / (heads_ / kv_heads_); }

  // The queries of one head in a row; `together` of them, or those that are left, become their mean, maxima or minima.
  Queries queries_of(const Row& row, int64_t head, int64_t together, int32_t pooling = NA_POOL_MEAN) const {
    const int64_t first = select_.tile_queries ? row.tile : row.shape.first_query(row.tile),
                  end = select_.tile_queries ? first + 1 : row.shape.end_query(row.tile);
    Queries queries(q_.dtype, q_.head_dim);
    if (together == 1) {
      for (int64_t query = first; query < end; query++) queries.add(q_.row(row.batch, query, head));
      return queries;
    }
    queries.make(static_cast<size_t>(ceil_div(end - first, together)));
    std::vector<float> made(static_cast<size_t>(q_.head_dim));
    for (size_t i = 0; i < queries.rows.size(); i++) {
      const int64_t from = first + static_cast<int64_t>(i) * together, to = std::min(from + together, end);
      std::fill(made.begin(), made.end(), neutral(pooling));
      for (int64_t query = from; query < to; query++) {
        fold_row(q_.row(row.batch, query, head), q_.dtype, q_.head_dim, pooling, made.data());
      }
      if (pooling == NA_POOL_MEAN) {
        for (float& sum : made) sum /= static_cast<float>(to - from);
      }
      queries.set(i, made);
    }
    return queries;
  }

  // One for each head of the row's pattern.
  std::vector<Scorer> scorers_of(const Row& row, int64_t together) const {
    std::vector<Scorer> scorers;
    for (int64_t head = first_head(row.pattern); head < first_head(row.pattern + 1); head++) {
      scorers.emplace_back(scoring_, queries_of(row, head, together), k_.int8());
    }
    return scorers;
  }

  // InfiniteHiP: in each stage every chunk finds its best key by itself, going down into the better half, and the best
  // chunks are cut into those of the next stage.
  std::vector<int64_t> hip(const Row& row) const {
    const int64_t limit = row.shape.visible_keys(row.shape.end_query(row.tile) - 1), block = shape_.key_block;
    std::vector<int64_t> chunks;
    const int32_t first_stage = select_.kept ? select_.refreshed_from : 0;
    if (first_stage > 0) chunks = kept_chunks(row, first_stage - 1, limit);
    for (int32_t stage = first_stage; stage < select_.stages; stage++) {
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
        keep_chunks(row, stage, chunks);
        continue;
      }
      std::vector<Scorer> scorers = scorers_of(row, last ? 1 : kHipTogether);
      const std::vector<float> scores = descend(row, {parts, size, limit}, scorers);
      for (int64_t index : highest(scores, keep)) chunks.push_back(parts[static_cast<size_t>(index)]);
      keep_chunks(row, stage, chunks);
    }
    for (int64_t& chunk : chunks) chunk /= block;
    return chunks;
  }

  // Where a stage of a row has its number of chunks, and then these.
  int32_t* kept_at(const Row& row, int32_t stage) const {
    const na_tensor& kept = *select_.kept;
    int64_t at = row.index * kept.shape[1];
    for (int32_t before = 0; before < stage; before++) at += 1 + select_.kept_room[before];
    return static_cast<int32_t*>(kept.data) + at;
  }

  void keep_chunks(const Row& row, int32_t stage, const std::vector<int64_t>& chunks) const {
    if (!select_.kept) return;
    int32_t* to = kept_at(row, stage);
    const int64_t count = std::min(static_cast<int64_t>(chunks.size()), select_.kept_room[stage]);
    *to++ = static_cast<int32_t>(count);
    for (int64_t i = 0; i < count; i++) to[i] = static_cast<int32_t>(chunks[static_cast<size_t>(i)]);
  }

  // Of a row that was not searched.
  void keep_nothing(const Row& row) const {
    if (!select_.kept) return;
    for (int32_t stage = select_.refreshed_from; stage < select_.stages; stage++) *kept_at(row, stage) = 0;
  }

  // Those of an earlier call, but for what may no longer be chosen.
  std::vector<int64_t> kept_chunks(const Row& row, int32_t stage, int64_t limit) const {
    const int32_t* from = kept_at(row, stage);
    const int64_t size = select_.chunk[stage], block = shape_.key_block;
    std::vector<int64_t> chunks;
    for (int32_t i = 1; i <= *from; i++) {
      const int64_t at = from[i];
      if (at < limit && row.open.any_open(at / block, (at + size) / block)) chunks.push_back(at);
    }
    return chunks;
  }

  int64_t kept_keys(const Row& row, int32_t stage) const {
    if (select_.keep[stage] > 0) return select_.keep[stage];
    return row.budget * hip_keep_times(select_, stage);
  }

  // The chunks of a stage, by their first keys.
  struct Chunks {
    const std::vector<int64_t>& begins;
    const int64_t size, limit;
  };

  // Some chunks on their way down, for one head.
  struct Descent {
    Scorer& scorer;
    HeadKeys rows;
    size_t first;                    // of the chunks
    std::vector<BlockRange> ranges;  // of keys, where each of them has come to
    std::vector<const char*> keys;   // that stand for both halves of each
  };

  // The score of each chunk: that of the best representative on its way down, for any head. Several descents take
  // turns, level by level: the keys of one, which lie anywhere, come from memory while those of others are scored. All
  // heads go down the same chunks at about the same time, while their keys are in the cache.
  std::vector<float> descend(const Row& row, const Chunks& chunks, std::vector<Scorer>& scorers) const {
    constexpr size_t kTogether = kStrip, kTurns = 4;  // chunks of a descent, descents at least
    const size_t count = chunks.begins.size(), turns = (kTurns + scorers.size() - 1) / scorers.size();
    std::vector<float> scores(count, -kInfinity);
    std::vector<Descent> descents;
    for (size_t turn = 0; turn < turns; turn++) {
      for (size_t i = 0; i < scorers.size(); i++) {
        const int64_t head = kv_head(first_head(row.pattern) + static_cast<int64_t>(i));
        descents.push_back({scorers[i], k_.of(row.batch, head), turn * kTogether, {}, {}});
      }
    }
    const auto begin = [&](Descent& descent) {
      descent.ranges.clear();
      for (size_t i = descent.first; i < std::min(descent.first + kTogether, count); i++) {
        descent.ranges.push_back({chunks.begins[i], std::min(chunks.begins[i] + chunks.size, chunks.limit)});
      }
      find_keys(descent);
    };
    for (Descent& descent : descents) begin(descent);
    for (bool more = true; more;) {
      more = false;
      for (Descent& descent : descents) {
        if (descent.ranges.empty()) continue;
        if (halve(descent, scores.data() + descent.first)) {
          find_keys(descent);
        } else {
          descent.first += turns * kTogether;
          begin(descent);
        }
        more = true;
      }
    }
    return scores;
  }

  void find_keys(Descent& descent) const {
    const int64_t row_bytes = k_.row_bytes();
    descent.keys.resize(2 * descent.ranges.size());
    const char** to = descent.keys.data();
    for (const BlockRange& range : descent.ranges) {
      for (const BlockRange& half : {first_half(range), second_half(range)}) {
        *to = descent.rows.row(select_.first ? half.begin : (half.begin + half.end) / 2);
        // To the second cache: they are more than the first one fetches at once.
        for (int64_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(*to + at, 0, 2);
        to++;
      }
    }
  }

  // Goes down into the better halves, and raises the scores of their chunks. Whether any has halves still; to score a
  // single key once more changes nothing.
  static bool halve(Descent& descent, float* scores) {
    Scorer& scorer = descent.scorer;
    std::swap(scorer.keys, descent.keys);
    scorer.run();
    bool more = false;
    for (size_t i = 0; i < descent.ranges.size(); i++) {
      const float first = scorer[2 * i], second = scorer[2 * i + 1];
      scores[i] = std::max(scores[i], std::max(first, second));
      BlockRange& range = descent.ranges[i];
      // Without a branch, which nobody could predict.
      const BlockRange one = first_half(range), other = second_half(range);
      range.begin = first >= second ? one.begin : other.begin;
      range.end = first >= second ? one.end : other.end;
      more |= range.end - range.begin > 1;
    }
    return more;
  }

  // A single key is both.
  static BlockRange first_half(const BlockRange& range) {
    return {range.begin, std::max((range.begin + range.end) / 2, range.begin + 1)};
  }
  static BlockRange second_half(const BlockRange& range) {
    return {std::min((range.begin + range.end) / 2, range.end - 1), range.end};
  }

  // HiP: as many nodes as blocks are wanted, of which each is bisected and the better half of all is kept.
  std::vector<int64_t> bisect(const Row& row) const {
    std::vector<BlockRange> nodes, halves;  // of blocks that may be chosen, by index
    const int64_t count = row.open.open_count();
    for (int64_t i = 0; i < row.budget; i++) {
      nodes.push_back({i * count / row.budget, (i + 1) * count / row.budget});
    }
    std::vector<Scorer> scorers = scorers_of(row, 1);
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
        Scorer& scorer = scorers[static_cast<size_t>(head - first_head(row.pattern))];
        scorer.keys.clear();
        for (const BlockRange& half : halves) {
          const int64_t index = select_.first ? half.begin : (half.begin + half.end) / 2;
          const int64_t block = row.open.open_block(std::min(index, half.end - 1));
          const int64_t key = (block * shape_.key_block + row.shape.end_key(block)) / 2;
          scorer.keys.push_back(k_.row(row.batch, key, kv_head(head)));
        }
        scorer.run();
        for (size_t i = 0; i < scores.size(); i++) scores[i] = std::max(scores[i], scorer[i]);
      }
      nodes.clear();
      for (int64_t index : highest(scores, row.budget)) nodes.push_back(halves[static_cast<size_t>(index)]);
    }
    std::vector<int64_t> blocks;
    for (const BlockRange& node : nodes) blocks.push_back(row.open.open_block(node.begin));
    return blocks;
  }

  // Those of heads [first, end). With bounds, the positive parts of queries meet the maxima, the negative ones the
  // minima.
  Queries pooled_queries(const Row& row, int64_t first, int64_t end) const {
    std::vector<Queries> given;
    size_t count = 0;
    for (int64_t head = first; head < end; head++) {
      const bool pools = select_.query_pooling >= 0;
      given.push_back(queries_of(row, head, pools ? shape_.query_tile : 1, select_.query_pooling));
      count += given.back().rows.size();
    }
    const na_tensor& table = *select_.pooled->rest;
    const auto features = static_cast<int>(table.shape[3]);
    Queries queries(table.dtype, features);
    queries.make(count);
    std::vector<float> values(static_cast<size_t>(features));
    for (size_t i = 0; i < count; i++) {
      const size_t each = given[0].rows.size();
      std::fill(values.begin(), values.end(), 0.0f);
      fold_row(given[i / each].rows[i % each], q_.dtype, q_.head_dim, NA_POOL_MEAN, values.data());
      for (int d = 0; select_.bounds && d < q_.head_dim; d++) {
        float& least = values[static_cast<size_t>(q_.head_dim + d)];
        least = std::min(values[static_cast<size_t>(d)], 0.0f);
        values[static_cast<size_t>(d)] = std::max(values[static_cast<size_t>(d)], 0.0f);
      }
      queries.set(i, values);
    }
    return queries;
  }

  // By the products of queries with pooled keys; with bounds, by what no key of the block exceeds.
  std::vector<int64_t> pooled(const Row& row, std::vector<Means>* means) const {
    const SummaryRows table(*select_.pooled);
    const int64_t count = row.open.open_count(), end_head = first_head(row.pattern + 1);
    std::vector<float> scores(static_cast<size_t>(count), -kInfinity);
    // One for each key head: of the query heads that share it the largest score counts, as of the queries of each.
    std::vector<Scorer> scorers;
    const int64_t first_kv_head = kv_head(first_head(row.pattern)), group = heads_ / kv_heads_;
    for (int64_t head = first_head(row.pattern); head < end_head; head = (kv_head(head) + 1) * group) {
      scorers.emplace_back(scoring_, pooled_queries(row, head, std::min(end_head, (kv_head(head) + 1) * group)));
    }
    for (size_t i = 0; i < scorers.size(); i++) {
      const int64_t head = first_kv_head + static_cast<int64_t>(i);
      for (const BlockRange& range : row.open.open) {
        table.add_rows(row.batch, head, range.begin, range.end, &scorers[i].keys);
      }
      scorers[i].run();
      for (size_t index = 0; index < scores.size(); index++) scores[index] = std::max(scores[index], scorers[i][index]);
    }
    std::vector<int64_t> chosen = highest(scores, row.budget);
    if (select_.top_p < 1 || select_.threshold > 0) keep_shares(scores, chosen);
    if (by_means_ > 0) choose_means(row, scores, chosen, means);
    for (int64_t& index : chosen) index = row.open.open_block(index);
    return chosen;
  }

  // Of what is not chosen, and seen whole, the best for one level after the other.
  void choose_means(const Row& row, const std::vector<float>& scores, const std::vector<int64_t>& chosen,
                    std::vector<Means>* means) const {
    const int64_t whole = row.shape.whole_blocks(row.tile);
    std::vector<bool> taken(scores.size());
    for (int64_t index : chosen) taken[static_cast<size_t>(index)] = true;
    std::vector<int64_t> left;
    for (size_t index = 0; index < scores.size(); index++) {
      if (!taken[index] && row.open.open_block(static_cast<int64_t>(index)) < whole) {
        left.push_back(static_cast<int64_t>(index));
      }
    }
    for (int level = 1; level < NA_LEVELS; level++) {
      if (select_.level_budgets[level] == 0) continue;
      std::vector<float> own;
      for (int64_t index : left) own.push_back(scores[static_cast<size_t>(index)]);
      std::vector<int64_t> rest;
      size_t from = 0;
      for (int64_t at : highest(own, select_.level_budgets[level])) {
        rest.insert(rest.end(), left.begin() + static_cast<int64_t>(from), left.begin() + at);
        means->push_back({row.open.open_block(left[static_cast<size_t>(at)]), level});
        from = static_cast<size_t>(at) + 1;
      }
      rest.insert(rest.end(), left.begin() + static_cast<int64_t>(from), left.end());
      left = std::move(rest);
    }
  }

  // Of what is chosen, those that make up top_p of the softmax over all scores, and whose own share is large enough.
  void keep_shares(const std::vector<float>& scores, std::vector<int64_t>& chosen) const {
    float top = -kInfinity;
    for (float score : scores) top = std::max(top, score * select_.scale);
    if (top == -kInfinity) return;
    const auto weight = [&](int64_t index) {
      const float x = scores[static_cast<size_t>(index)] * select_.scale;
      return x == top ? 1.0 : std::exp(static_cast<double>(x - top));  // also of infinity
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
  const TokenRows q_;
  const KeyRows k_;
  const Scoring scoring_;
  int64_t heads_, kv_heads_;
  int64_t by_means_ = 0;                // blocks of all levels
  std::vector<int64_t> begin_, count_;  // of each row: where it has its room, and how many words it took
  std::atomic<int64_t> left_{0};        // rows that are not yet written
};

}  // namespace

std::unique_ptr<Job> select_job(const na_select& select, Isa isa) { return std::make_unique<SelectJob>(select, isa); }

}  // namespace na::cpu
