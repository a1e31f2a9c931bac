#include "cpu/key_major.h"

#include <algorithm>

namespace na::cpu {
namespace {

// Calls visit(block, query) for each of them that some key of the block is shown to.
template <class Visit>
void each_pair(const PlanReader& reader, int64_t row, int64_t first, int64_t end, const Visit& visit) {
  const PlanShape& shape = reader.shape;
  for (int64_t tile = first; tile < end; tile++) {
    int64_t at = reader.begin(row + tile);
    const int64_t stop = reader.end(row + tile);
    for (PlanEntry entry; reader.next(at, stop, &entry);) {
      for (int64_t word = 0; word < shape.query_words(); word++) {
        const uint32_t there = shape.queries_of_word(tile, word);
        for (uint32_t bits = entry.bitmap ? entry.bitmap[word] & there : there; bits != 0; bits &= bits - 1) {
          visit(entry.block, shape.first_query(tile) + 32 * word + __builtin_ctz(bits));
        }
      }
    }
  }
}

}  // namespace

double seen_share(const na_plan& plan) {
  const PlanReader reader(plan);
  const PlanShape& shape = reader.shape;
  const int64_t words = shape.query_words();
  double seen = 0, listed = 0;
  for (int64_t row = 0; row < plan_rows(plan); row++) {
    const int64_t tile = row % shape.tiles(), end = reader.end(row);
    int64_t at = reader.begin(row);
    for (PlanEntry entry; reader.next(at, end, &entry);) {
      const uint32_t* bitmap = entry.bitmap;
      const int64_t keys = shape.end_key(entry.block) - entry.block * shape.key_block;
      if (bitmap && !std::equal(bitmap + words, bitmap + keys * words, bitmap)) return 1;
      for (int64_t word = 0; word < words; word++) {
        const uint32_t there = shape.queries_of_word(tile, word);
        seen += __builtin_popcount(bitmap ? bitmap[word] & there : there);
        listed += __builtin_popcount(there);
      }
    }
  }
  return listed > 0 ? seen / listed : 1;
}

KeyMajor::KeyMajor(const PlanReader& reader, int64_t row, int64_t first, int64_t end) {
  // Places by block: first how many queries it has, then where the next of them goes.
  std::vector<int64_t> places(static_cast<size_t>(reader.shape.blocks()));
  each_pair(reader, row, first, end, [&](int64_t block, int64_t) { places[static_cast<size_t>(block)]++; });
  begin_.push_back(0);
  for (size_t block = 0; block < places.size(); block++) {
    if (places[block] == 0) continue;
    blocks_.push_back(static_cast<int64_t>(block));
    begin_.push_back(begin_.back() + places[block]);
    places[block] = begin_[begin_.size() - 2];
  }
  queries_.resize(static_cast<size_t>(begin_.back()));
  each_pair(reader, row, first, end, [&](int64_t block, int64_t query) {
    queries_[static_cast<size_t>(places[static_cast<size_t>(block)]++)] = static_cast<int32_t>(query);
  });
}

}  // namespace na::cpu
