#include "cpu/sparse_plan.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "core/plan_entry.h"

namespace na::cpu {
namespace {

// Writes the rows of a plan one after the other. What exceeds its room, which only operands that are no plans can make
// happen, is left out.
class PlanWriter {
 public:
  explicit PlanWriter(const na_plan& plan)
      : offsets_(static_cast<int32_t*>(plan.offsets->data)),
        entries_(static_cast<uint32_t*>(plan.entries->data)),
        room_(plan.entries->shape[0]) {}

  void begin_row(int64_t row) { offsets_[row] = static_cast<int32_t>(words_); }
  void end(int64_t rows) { offsets_[rows] = static_cast<int32_t>(words_); }

  void add(uint32_t word) {
    if (words_ < room_) entries_[words_++] = word;
  }
  void add_bitmap(int64_t block, int64_t index) {
    if (words_ + 2 > room_) return;
    add(plan_entry(block, NA_ENTRY_BITMAP));
    add(static_cast<uint32_t>(index));
  }

 private:
  int32_t* const offsets_;
  uint32_t* const entries_;
  const int64_t room_;
  int64_t words_ = 0;
};

// A plan from lists of blocks.
class ListJob final : public Job {
 public:
  explicit ListJob(const na_build& build) : build_(build), shape_(*build.out) {}

  int64_t prepare() override { return 1; }

  void run(int64_t, void*, const Cancel& cancel) override {
    const auto* offsets = static_cast<const int32_t*>(build_.offsets->data);
    const auto* blocks = static_cast<const int32_t*>(build_.blocks->data);
    const int64_t rows = plan_rows(*build_.out), most = build_.blocks->shape[0];
    PlanWriter writer(*build_.out);
    int64_t end = std::clamp<int64_t>(offsets[0], 0, most);
    bool known = true;  // no offset so far that cannot be
    for (int64_t row = 0; row < rows && !cancel.requested(); row++) {
      const int64_t begin = end;
      end = std::clamp<int64_t>(offsets[row + 1], begin, most);  // rows never overlap, whatever was given
      writer.begin_row(row);
      if (known && (offsets[row + 1] != end || offsets[0] != 0)) {
        writer.add(kNoOffset);
        known = false;
      }
      for (const bool full : {true, false}) {
        for (int64_t at = begin; at < end; at++) add(writer, row % shape_.tiles(), blocks[at], full);
      }
    }
    writer.end(rows);
  }

 private:
  // Full entries in the first of two passes, others in the second. What causality hides altogether is no entry.
  void add(PlanWriter& writer, int64_t tile, int64_t block, bool full) const {
    if (block < 0 || block >= shape_.blocks()) {
      if (!full) writer.add(kNoEntry);
      return;
    }
    const na_entry_kind kind = shape_.kind_of(tile, block);
    if ((kind == NA_ENTRY_FULL) == full && block < shape_.visible_blocks(tile)) writer.add(plan_entry(block, kind));
  }

  const na_build& build_;
  const PlanShape shape_;
};

// The union or the intersection of two plans.
class CombineJob final : public Job {
 public:
  explicit CombineJob(const na_build& build)
      : build_(build),
        shape_(*build.out),
        a_(*build.a),
        b_(*build.b),
        room_(build.out->bitmaps ? build.out->bitmaps->shape[0] : 0) {}

  int64_t prepare() override { return 1; }

  void run(int64_t, void*, const Cancel& cancel) override {
    const na_plan& out = *build_.out;
    const int64_t rows = plan_rows(out);
    PlanWriter writer(out);
    std::vector<Item> a, b, all;
    for (int64_t row = 0; row < rows && !cancel.requested(); row++) {
      const int64_t tile = row % shape_.tiles(), head = row / shape_.tiles() % out.heads;
      const int64_t batch = row / shape_.tiles() / out.heads;
      read(a_, *build_.a, batch, head, tile, &a);
      read(b_, *build_.b, batch, head, tile, &b);
      all.clear();
      if (build_.source == NA_PLAN_UNION) {
        unite(a, b, &all);
      } else {
        intersect(a, b, &all);
      }
      writer.begin_row(row);
      for (const bool full : {true, false}) {
        for (const Item& item : all) write(writer, tile, item, full);
      }
    }
    writer.end(rows);
    // Bitmaps that nobody names are zero too, so that the same plans give the same bytes.
    if (room_ > 0) {
      memset(bitmap(static_cast<int64_t>(made_.size())), 0,
             static_cast<size_t>((room_ - static_cast<int64_t>(made_.size())) * bitmap_words()) * sizeof(uint32_t));
    }
  }

 private:
  static constexpr int64_t kWhole = -1;
  struct Item {
    int64_t block;
    int64_t a, b;  // bitmaps, or kWhole
  };

  void read(const PlanReader& reader, const na_plan& plan, int64_t batch, int64_t head, int64_t tile,
            std::vector<Item>* items) const {
    items->clear();
    const int64_t pattern = head * plan.heads / build_.out->heads, entry = plan.batch == 1 ? 0 : batch;
    const int64_t row = (entry * plan.heads + pattern) * shape_.tiles() + tile;
    int64_t at = reader.begin(row);
    const int64_t end = reader.end(row);
    for (PlanEntry next; reader.next(at, end, &next);) {
      if (next.block < shape_.visible_blocks(tile))
        items->push_back({next.block, next.bitmap_index, next.bitmap_index});
    }
    std::stable_sort(items->begin(), items->end(), [](const Item& x, const Item& y) { return x.block < y.block; });
  }

  static void unite(const std::vector<Item>& a, const std::vector<Item>& b, std::vector<Item>* all) {
    constexpr int64_t kNone = kWhole - 1;
    size_t i = 0, j = 0;
    while (i < a.size() || j < b.size()) {
      const bool take_a = j == b.size() || (i < a.size() && a[i].block <= b[j].block);
      const bool take_b = i == a.size() || (j < b.size() && b[j].block <= a[i].block);
      Item item = {take_a ? a[i].block : b[j].block, take_a ? a[i].a : kNone, take_b ? b[j].b : kNone};
      if (item.a == kWhole || item.b == kWhole) item.a = item.b = kWhole;
      all->push_back(item);
      i += take_a;
      j += take_b;
    }
  }

  static void intersect(const std::vector<Item>& a, const std::vector<Item>& b, std::vector<Item>* all) {
    for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
      if (a[i].block == b[j].block) all->push_back({a[i].block, a[i].a, b[j].b});
      const int64_t next = std::min(a[i].block, b[j].block);
      i += a[i].block == next;
      j += b[j].block == next;
    }
  }

  void write(PlanWriter& writer, int64_t tile, const Item& item, bool full) {
    if (item.a == kWhole && item.b == kWhole) {
      const na_entry_kind kind = shape_.kind_of(tile, item.block);
      if ((kind == NA_ENTRY_FULL) == full) writer.add(plan_entry(item.block, kind));
      return;
    }
    if (full) return;
    const auto [place, is_new] = made_.try_emplace({item.a, item.b}, static_cast<int64_t>(made_.size()));
    if (is_new) {
      if (place->second >= room_) {
        made_.erase(place);
        return;
      }
      make_bitmap(item, bitmap(place->second));
    }
    writer.add_bitmap(item.block, place->second);
  }

  // A negative index is a bitmap of ones in an intersection, of zeros in a union.
  void make_bitmap(const Item& item, uint32_t* to) const {
    const uint32_t *a = source(*build_.a, item.a), *b = source(*build_.b, item.b);
    for (int64_t i = 0; i < bitmap_words(); i++) {
      to[i] = !a ? b[i] : !b ? a[i] : build_.source == NA_PLAN_UNION ? a[i] | b[i] : a[i] & b[i];
    }
  }

  const uint32_t* source(const na_plan& plan, int64_t index) const {
    return index < 0 ? nullptr : static_cast<const uint32_t*>(plan.bitmaps->data) + index * bitmap_words();
  }
  uint32_t* bitmap(int64_t index) const {
    return static_cast<uint32_t*>(build_.out->bitmaps->data) + index * bitmap_words();
  }
  int64_t bitmap_words() const { return shape_.key_block * shape_.query_words(); }

  const na_build& build_;
  const PlanShape shape_;
  const PlanReader a_, b_;
  const int64_t room_;
  std::map<std::pair<int64_t, int64_t>, int64_t> made_;  // which bitmap two of the operands gave
};

// Bits [from, end) of the word that has bits 0 to 31 of them.
uint32_t bits_between(int64_t from, int64_t end) {
  const auto below = [](int64_t bit) { return bit <= 0 ? 0u : bit >= 32 ? ~0u : (1u << bit) - 1; };
  return below(end) & ~below(from);
}

// How many pairs of query and key a bitmap shows. Plans of queries that select for themselves have a bitmap for nearly
// every block, and so bits are counted by the word.
double shown_in_bitmap(const PlanShape& shape, int64_t tile, const PlanEntry& entry) {
  const int64_t first = shape.first_query(tile), end = shape.end_query(tile) - first;
  const uint32_t* words = entry.bitmap;
  double shown = 0;
  for (int64_t key = entry.block * shape.key_block; key < shape.end_key(entry.block); key++) {
    // The first query of the tile that may see the key.
    const int64_t from = shape.causal ? key - (shape.keys - shape.queries) - first : 0;
    for (int64_t bit = 0; bit < shape.query_words() * 32; bit += 32) {
      shown += __builtin_popcount(*words++ & bits_between(from - bit, end - bit));
    }
  }
  return shown;
}

// How many pairs of query and key an entry shows.
double shown_by(const PlanShape& shape, int64_t tile, const PlanEntry& entry) {
  if (entry.bitmap) return shown_in_bitmap(shape, tile, entry);
  const int64_t first_key = entry.block * shape.key_block, end = shape.end_key(entry.block);
  double shown = 0;
  for (int64_t query = shape.first_query(tile); query < shape.end_query(tile); query++) {
    shown += static_cast<double>(std::max<int64_t>(0, std::min(end, shape.visible_keys(query)) - first_key));
  }
  return shown;
}

// Marks what an entry shows; `to` is the row of keys of the tile's first query.
void show_entry(const PlanShape& shape, int64_t tile, const PlanEntry& entry, uint8_t* to) {
  const int64_t first_key = entry.block * shape.key_block, first = shape.first_query(tile);
  for (int64_t query = first; query < shape.end_query(tile); query++) {
    const int64_t end = std::min(shape.end_key(entry.block), shape.visible_keys(query)), bit = query - first;
    uint8_t* row = to + bit * shape.keys;
    if (!entry.bitmap) {
      if (end > first_key) memset(row + first_key, 1, static_cast<size_t>(end - first_key));
      continue;
    }
    for (int64_t key = first_key; key < end; key++) {
      if (entry.bitmap[(key - first_key) * shape.query_words() + bit / 32] >> bit % 32 & 1) row[key] = 1;
    }
  }
}

class InspectJob final : public Job {
 public:
  explicit InspectJob(const na_inspect& inspect)
      : inspect_(inspect), reader_(*inspect.plan), rows_(plan_rows(*inspect.plan)) {}

  // The report, then the rows of the dense mask.
  int64_t prepare() override { return (inspect_.report ? 1 : 0) + (inspect_.dense ? rows_ : 0); }

  void run(int64_t task, void*, const Cancel& cancel) override {
    if (inspect_.report && task-- == 0) {
      report(cancel);
    } else {
      fill(task);
    }
  }

 private:
  void report(const Cancel& cancel) const {
    const PlanShape& shape = reader_.shape;
    auto* to = static_cast<int64_t*>(inspect_.report->data);
    double shown = 0, visible = 0, blocks = 0;
    std::fill(to, to + 6, 0);
    for (int64_t row = 0; row < rows_ && !cancel.requested(); row++) {
      const int64_t tile = row % shape.tiles();
      if (to[0] == NA_FAULT_NONE) find_fault(row, to);
      int64_t at = reader_.begin(row);
      const int64_t end = reader_.end(row);
      for (PlanEntry entry; reader_.next(at, end, &entry);) shown += shown_by(shape, tile, entry);
      blocks += static_cast<double>(shape.visible_blocks(tile));
      for (int64_t query = shape.first_query(tile); query < shape.end_query(tile); query++) {
        visible += static_cast<double>(shape.visible_keys(query));
      }
    }
    const auto whole = [](double count) { return static_cast<int64_t>(std::min(count, 0x1p62)); };
    to[3] = whole(shown);
    to[4] = whole(visible);
    to[5] = whole(blocks);
  }

  void find_fault(int64_t row, int64_t* to) const {
    const PlanShape& shape = reader_.shape;
    const auto fault = [&](na_plan_fault what, int64_t block) {
      to[0] = what;
      to[1] = row;
      to[2] = block;
    };
    if (!reader_.placed(row)) return fault(NA_FAULT_OFFSETS, 0);
    const int64_t from = reader_.begin(row), end = reader_.listed_end(row), tile = row % shape.tiles();
    std::vector<int64_t> blocks;
    bool rest = false, means = false;
    for (int64_t at = from; at < end; at++) {
      const uint32_t word = reader_.word(at);
      const int64_t block = entry_block(word);
      const na_entry_kind kind = entry_kind(word);
      if (word == kNoOffset || word == NA_NO_WORD) return fault(NA_FAULT_OFFSETS, 0);
      if (word == kNoEntry || block >= shape.visible_blocks(tile)) return fault(NA_FAULT_RANGE, block);
      const bool of_means = entry_of_means(word, inspect_.plan->levels);
      const bool known = kind == NA_ENTRY_BITMAP || kind == shape.kind_of(tile, block);
      if ((entry_rest(word) != 0 && !of_means) || !known) return fault(NA_FAULT_KIND, block);
      if (kind == NA_ENTRY_BITMAP) {
        if (at + 1 == end || reader_.word(at + 1) >= reader_.bitmap_count()) return fault(NA_FAULT_BITMAP, block);
        at++;
      }
      const bool turns = of_means ? !means : kind != NA_ENTRY_FULL && !rest && !means;
      if ((means && !of_means) || (rest && kind == NA_ENTRY_FULL && !of_means) ||
          (!turns && !blocks.empty() && block <= blocks.back())) {
        return fault(NA_FAULT_ORDER, block);
      }
      rest |= turns && !of_means;
      means |= of_means;
      blocks.push_back(block);
    }
    std::sort(blocks.begin(), blocks.end());
    const auto twice = std::adjacent_find(blocks.begin(), blocks.end());
    if (twice != blocks.end()) fault(NA_FAULT_ORDER, *twice);
  }

  void fill(int64_t row) const {
    const PlanShape& shape = reader_.shape;
    const int64_t tile = row % shape.tiles(), first = shape.first_query(tile);
    uint8_t* to =
        static_cast<uint8_t*>(inspect_.dense->data) + (row / shape.tiles() * shape.queries + first) * shape.keys;
    memset(to, 0, static_cast<size_t>((shape.end_query(tile) - first) * shape.keys));
    int64_t at = reader_.begin(row);
    const int64_t end = reader_.end(row);
    for (PlanEntry entry; reader_.next(at, end, &entry);) show_entry(shape, tile, entry, to);
  }

  const na_inspect& inspect_;
  const PlanReader reader_;
  const int64_t rows_;
};

}  // namespace

std::unique_ptr<Job> build_job(const na_build& build) {
  if (build.source == NA_PLAN_BLOCKS) return std::make_unique<ListJob>(build);
  return std::make_unique<CombineJob>(build);
}

std::unique_ptr<Job> inspect_job(const na_inspect& inspect) { return std::make_unique<InspectJob>(inspect); }

}  // namespace na::cpu
