// The words of a sparse plan, and how its rows are walked by whoever does not trust their values.
#pragma once

#include <cstdint>

#include "core/backend.h"
#include "core/half.h"  // NA_HOST_DEVICE: kernels select by the same arithmetic

namespace na {

constexpr int64_t kMostBlocks = int64_t{1} << 24;
constexpr int32_t kLeastQueryTile = 16, kMostQueryTile = 128, kLeastKeyBlock = 2, kMostKeyBlock = 128;

NA_HOST_DEVICE constexpr uint32_t plan_entry(int64_t block, na_entry_kind kind, int level = 0) {
  return static_cast<uint32_t>(block) | static_cast<uint32_t>(level) << 24 | static_cast<uint32_t>(kind) << 27;
}
constexpr int64_t entry_block(uint32_t entry) { return entry & (kMostBlocks - 1); }
constexpr int entry_level(uint32_t entry) { return static_cast<int>(entry >> 24 & 7); }
constexpr na_entry_kind entry_kind(uint32_t entry) { return static_cast<na_entry_kind>(entry >> 27 & 3); }
// Level and spare bits, which are 0 in an entry of keys.
constexpr uint32_t entry_rest(uint32_t entry) { return entry & ~plan_entry(kMostBlocks - 1, NA_ENTRY_TAIL); }
// Whether an entry is of means of one of these levels, but for where its block lies.
constexpr bool entry_of_means(uint32_t entry, int32_t levels) {
  const na_entry_kind kind = entry_kind(entry);
  return entry >> 29 == 0 && (levels & ~1) >> entry_level(entry) & 1 &&
         (kind == NA_ENTRY_FULL || kind == NA_ENTRY_TAIL);
}

// Stands where a block was given that there cannot be: nobody sees it, and inspection finds it.
constexpr uint32_t kNoEntry = ~uint32_t{0};
// Stands in the first row whose offsets were not such.
constexpr uint32_t kNoOffset = kNoEntry - 1;

// What plans of one geometry have in common.
struct PlanShape {
  int64_t queries, keys, query_tile, key_block;
  bool causal;

  explicit PlanShape(const na_plan& plan)
      : queries(plan.queries),
        keys(plan.keys),
        query_tile(plan.query_tile),
        key_block(plan.key_block),
        causal(plan.causal != 0) {}

  // For a sequence that has fewer keys than the plan.
  NA_HOST_DEVICE PlanShape with_keys(int64_t own) const {
    PlanShape shape = *this;
    shape.keys = own;
    return shape;
  }

  NA_HOST_DEVICE int64_t tiles() const { return (queries + query_tile - 1) / query_tile; }
  NA_HOST_DEVICE int64_t blocks() const { return (keys + key_block - 1) / key_block; }
  // The queries of a tile are [first, end).
  NA_HOST_DEVICE int64_t first_query(int64_t tile) const { return tile * query_tile; }
  NA_HOST_DEVICE int64_t end_query(int64_t tile) const {
    const int64_t end = (tile + 1) * query_tile;
    return end < queries ? end : queries;
  }
  // Which of the 32 queries that a word of a bitmap has bits for there are.
  NA_HOST_DEVICE uint32_t queries_of_word(int64_t tile, int64_t word) const {
    const int64_t count = end_query(tile) - first_query(tile) - 32 * word;
    return count <= 0 ? 0 : count >= 32 ? ~uint32_t{0} : (uint32_t{1} << count) - 1;
  }
  NA_HOST_DEVICE int64_t end_key(int64_t block) const {
    const int64_t end = (block + 1) * key_block;
    return end < keys ? end : keys;
  }
  // How many keys, from the first on, a query may see.
  NA_HOST_DEVICE int64_t visible_keys(int64_t query) const {
    const int64_t visible = query + keys - queries + 1;
    return !causal || visible > keys ? keys : visible < 0 ? 0 : visible;
  }
  // How many blocks, from the first on, some query of a tile may see.
  NA_HOST_DEVICE int64_t visible_blocks(int64_t tile) const {
    return (visible_keys(end_query(tile) - 1) + key_block - 1) / key_block;
  }
  // How many blocks, from the first on, all queries of a tile may see whole.
  NA_HOST_DEVICE int64_t whole_blocks(int64_t tile) const {
    const int64_t visible = visible_keys(first_query(tile));
    return visible == keys ? blocks() : visible / key_block;
  }
  // The kind of a visible block that shows all it may.
  NA_HOST_DEVICE na_entry_kind kind_of(int64_t tile, int64_t block) const {
    if (end_key(block) > visible_keys(first_query(tile))) return NA_ENTRY_PREDICATE;
    return (block + 1) * key_block > keys ? NA_ENTRY_TAIL : NA_ENTRY_FULL;
  }
  NA_HOST_DEVICE int64_t query_words() const { return (query_tile + 31) / 32; }
};

inline int64_t plan_rows(const na_plan& plan) { return plan.batch * plan.heads * PlanShape(plan).tiles(); }

struct PlanEntry {
  int64_t block;
  na_entry_kind kind;
  const uint32_t* bitmap;  // [key][query_words], or null
  int64_t bitmap_index;
  int level;
};

// Reads the rows of a plan. Whatever its tensors hold, nothing outside of them is touched: what is out of range is
// passed over.
class PlanReader {
 public:
  explicit PlanReader(const na_plan& plan)
      : shape(plan),
        offsets_(plan.offsets ? static_cast<const int32_t*>(plan.offsets->data) : nullptr),
        entries_(static_cast<const uint32_t*>(plan.entries->data)),
        bitmaps_(plan.bitmaps ? static_cast<const uint32_t*>(plan.bitmaps->data) : nullptr),
        levels_(plan.levels),
        row_words_(plan.row_words),
        words_(plan.entries->shape[0]),
        bitmap_count_(plan.bitmaps ? plan.bitmaps->shape[0] : 0) {}

  // Where the words of a row begin and end.
  int64_t begin(int64_t row) const { return offsets_ ? clamp(offsets_[row], 0) : row * row_words_; }
  int64_t end(int64_t row) const { return offsets_ ? clamp(offsets_[row + 1], begin(row)) : begin(row) + row_words_; }
  // Where those end that say something.
  int64_t listed_end(int64_t row) const {
    int64_t last = end(row);
    while (!offsets_ && last > begin(row) && entries_[last - 1] == NA_NO_WORD) last--;
    return last;
  }
  // Whether a row lies where the plan says.
  bool placed(int64_t row) const {
    if (!offsets_) return true;
    const int64_t from = offsets_[row];
    return (row > 0 || from == 0) && from == begin(row) && offsets_[row + 1] == end(row);
  }

  // The next entry of keys from word `at` on, which moves behind it.
  bool next(int64_t& at, int64_t end, PlanEntry* entry) const {
    while (at < end) {
      const uint32_t word = entries_[at++];
      if (entry_rest(word) != 0) continue;
      *entry = {entry_block(word), entry_kind(word), nullptr, -1, 0};
      if (entry->kind == NA_ENTRY_BITMAP) {
        if (at == end) return false;
        entry->bitmap_index = entries_[at++];
        if (entry->bitmap_index >= bitmap_count_) continue;
        entry->bitmap = bitmaps_ + entry->bitmap_index * shape.key_block * shape.query_words();
      }
      if (entry->block < shape.blocks()) return true;
    }
    return false;
  }

  // Likewise, of means.
  bool next_means(int64_t& at, int64_t end, PlanEntry* entry) const {
    while (at < end) {
      const uint32_t word = entries_[at++];
      if (entry_rest(word) == 0 && entry_kind(word) == NA_ENTRY_BITMAP) at++;
      if (!entry_of_means(word, levels_)) continue;
      *entry = {entry_block(word), entry_kind(word), nullptr, -1, entry_level(word)};
      if (entry->block < shape.blocks()) return true;
    }
    return false;
  }

  uint32_t word(int64_t at) const { return entries_[at]; }
  int64_t bitmap_count() const { return bitmap_count_; }

  const PlanShape shape;

 private:
  int64_t clamp(int64_t offset, int64_t least) const {
    return offset < least ? least : offset > words_ ? words_ : offset;
  }

  const int32_t* const offsets_;
  const uint32_t* const entries_;
  const uint32_t* const bitmaps_;
  const int32_t levels_;
  const int64_t row_words_, words_, bitmap_count_;
};

}  // namespace na
