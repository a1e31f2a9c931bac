// The walk of a query tile through its rows of a sparse plan. Where the plan is sparse a tile has one row, and visits
// what that lists in its order: full blocks first. Where it is dense a tile has as many rows as fit and visits the
// blocks of all of them, ascending; bits say which queries see a key. Causality and other masks are constraints.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/plan_entry.h"
#include "cpu/executor/problem.h"
#include "cpu/summary_rows.h"

namespace na::cpu {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

// To the next entry of a block that begins before the `keys` of the sequence end.
void advance(const PlanReader& reader, int64_t keys, Stream& stream) {
  PlanEntry entry;
  bool more;
  do {
    more = reader.next(stream.at, stream.end, &entry);
  } while (more && entry.block * reader.shape.key_block >= keys);
  stream.block = more ? entry.block : kNone;
  stream.bitmap = more ? entry.bitmap : nullptr;
}

// Likewise, of those of means.
void advance_means(const PlanReader& reader, Stream& stream) {
  PlanEntry entry;
  stream.block = reader.next_means(stream.at, stream.end, &entry) ? entry.block : kNone;
}

// Where the full entries of a row end.
int64_t full_end(const PlanReader& reader, int64_t at, int64_t end) {
  while (at < end && entry_kind(reader.word(at)) == NA_ENTRY_FULL) at++;
  return at;
}

void add_stream(const PlanReader& reader, int64_t keys, SparseWalk& walk, int64_t at, int64_t end, int row) {
  Stream& stream = walk.streams[walk.stream_count++];
  stream.at = at;
  stream.end = end;
  stream.row = row;
  advance(reader, keys, stream);
}

void show_row(SparseWalk& walk, int64_t tile, int row) {
  for (int64_t bit = row * tile; bit < (row + 1) * tile; bit += 16) {
    walk.full[bit / 32] |= uint32_t{0xffff} << bit % 32;
  }
}

// The next block that any row lists.
bool next_block(const PlanReader& reader, int64_t keys, SparseWalk& walk) {
  int64_t block = kNone;
  for (int i = 0; i < walk.stream_count; i++) block = std::min(block, walk.streams[i].block);
  if (block == kNone) return false;
  walk.key = block * reader.shape.key_block;
  walk.end = std::min(reader.shape.end_key(block), keys);
  for (int word = 0; word < walk.words; word++) walk.full[word] = 0;
  for (int i = 0; i < walk.stream_count; i++) walk.bitmaps[walk.streams[i].row] = nullptr;
  int row = -1;  // a row that lists a block twice, which only words that are no plan's do, has it in two visits
  for (int i = 0; i < walk.stream_count; i++) {
    Stream& stream = walk.streams[i];
    if (stream.block != block || stream.row == row) continue;
    row = stream.row;
    if (stream.bitmap) {
      walk.bitmaps[stream.row] = stream.bitmap;
    } else if (walk.words > 0) {
      show_row(walk, reader.shape.query_tile, stream.row);
    }
    advance(reader, keys, stream);
  }
  return true;
}

// Coordinates of a token among `axes` axes.
void coordinates(int64_t flat, int axes, const int64_t* extent, int64_t* x) {
  for (int a = axes - 1; a > 0; a--) {
    x[a] = flat % extent[a];
    flat /= extent[a];
  }
  x[0] = flat;
}

void add_keys(const Problem& problem, Tile& tile, int64_t first, int count) {
  const TilePlan& plan = *tile.plan;
  const int axes = problem.key_axes;
  const char* k = problem.k.data + tile.batch * problem.k.batch + tile.kv_head * problem.k.head;
  const char* v = problem.v.data + tile.batch * problem.v.batch + tile.kv_head * problem.v.head;
  if (problem.pages) find_pages(problem, tile, first, count, tile.ahead_k + tile.ahead, tile.ahead_v + tile.ahead);
  for (int i = 0; i < count; i++) {
    const int at = tile.ahead + i;
    const int64_t key = first + i;
    int64_t x[kMaxAxes] = {key}, k_offset = 0, v_offset = 0;
    if (axes > 1) coordinates(key, axes, problem.key_extent, x);
    for (int a = 0; a < axes; a++) {
      k_offset += x[a] * problem.k.token[a];
      v_offset += x[a] * problem.v.token[a];
    }
    if (!problem.pages) {
      tile.ahead_k[at] = k + k_offset;
      tile.ahead_v[at] = v + v_offset;
    }
    tile.ahead_key[at] = key;
    for (int c = 0; c < plan.constraint_count; c++) {
      const Constraint& constraint = plan.constraints[c];
      const int64_t along = constraint.axis < 0 ? key : x[constraint.axis];
      tile.ahead_code[c][at] = static_cast<int32_t>(
          constraint.dilation == 1 ? along
                                   : along % constraint.dilation * tile.code_stride[c] + along / constraint.dilation);
    }
  }
}

// What counts as means: only blocks that all queries of the row may see whole.
void set_pooled(const Problem& problem, const PlanReader& reader, Tile& tile, int64_t row, int64_t query_tile) {
  SparseWalk& walk = tile.sparse;
  const int64_t part = tile.split.part, parts = tile.split.parts;
  walk.tile = query_tile;
  walk.whole = reader.shape.with_keys(tile.keys).whole_blocks(query_tile);
  const int64_t blocks = problem.estimate ? walk.whole : 0;
  walk.pooled = blocks * part / parts;
  walk.pooled_end = blocks * (part + 1) / parts;
  const int64_t begin = reader.begin(row), end = reader.end(row), middle = full_end(reader, begin, end);
  walk.listed[0] = {begin, middle, 0, nullptr, 0};
  walk.listed[1] = {middle, end, 0, nullptr, 0};
  const int64_t means_end = problem.sparse->levels != 0 ? end : begin;
  walk.listed[2] = {begin, means_end, 0, nullptr, 0};
  for (int i = 0; i < 2; i++) advance(reader, tile.keys, walk.listed[i]);
  advance_means(reader, walk.listed[2]);
  walk.mean = walk.mean_end = 0;
  walk.mean_at = begin + (means_end - begin) * part / parts;
  walk.mean_words_end = begin + (means_end - begin) * (part + 1) / parts;
}

// Who sees the next mean that is put at hand.
uint32_t* mean_bits(const Tile& tile) { return tile.sparse.bits + int64_t{tile.count} * tile.sparse.words; }

// Of a block that all queries of the row may see whole, who sees its mean: all of them where the row does not list it,
// or those that see none of its keys. False: nobody.
bool see_mean(const PlanReader& reader, Tile& tile, int64_t block, uint32_t* bits) {
  SparseWalk& walk = tile.sparse;
  const PlanShape& shape = reader.shape;
  for (int i = 0; i < 2; i++) {
    while (walk.listed[i].block < block) advance(reader, tile.keys, walk.listed[i]);
  }
  while (walk.listed[2].block < block) advance_means(reader, walk.listed[2]);
  std::fill_n(bits, walk.words, ~uint32_t{0});
  for (const Stream& stream : walk.listed) {
    if (stream.block != block) continue;
    if (!stream.bitmap) return false;
    const int64_t keys = std::min(shape.end_key(block), tile.keys) - block * shape.key_block;
    for (int64_t i = 0; i < keys * walk.words; i++) bits[i % walk.words] &= ~stream.bitmap[i];
  }
  bool somebody = walk.words == 0;
  for (int word = 0; word < walk.words; word++) {
    somebody |= (bits[word] & shape.queries_of_word(walk.tile, word)) != 0;
  }
  return somebody;
}

// Puts a mean of so many keys at hand.
void add_mean(Tile& tile, const SummaryRows& k, const SummaryRows& v, int64_t index, int64_t keys) {
  tile.k[tile.count] = k.row(tile.batch, index) + tile.kv_head * k.head;
  tile.v[tile.count] = v.row(tile.batch, index) + tile.kv_head * v.head;
  tile.log_counts[tile.count++] = std::log2(static_cast<float>(keys));
}

// To the next entry of means that counts.
bool next_means(const PlanReader& reader, const PlanShape& shape, SparseWalk& walk) {
  for (PlanEntry entry; reader.next_means(walk.mean_at, walk.mean_words_end, &entry);) {
    if (entry.block >= walk.whole) continue;
    const int64_t first = entry.block * shape.key_block, end = shape.end_key(entry.block);
    walk.mean_level = entry.level;
    walk.mean = first >> entry.level;
    walk.mean_end = ((end - 1) >> entry.level) + 1;
    return true;
  }
  return false;
}

// Who sees the keys that are added, of the block at hand.
void add_bits(const PlanShape& shape, Tile& tile, int count) {
  SparseWalk& walk = tile.sparse;
  const int rows = walk.streams[walk.stream_count - 1].row + 1;
  for (int i = 0; i < count; i++) {
    uint32_t* to = walk.ahead + static_cast<int64_t>(tile.ahead + i) * walk.words;
    std::copy(walk.full, walk.full + walk.words, to);
    const int64_t key = (walk.key + i) % shape.key_block;
    for (int row = 0; row < rows; row++) {
      if (!walk.bitmaps[row]) continue;
      const uint32_t* from = walk.bitmaps[row] + key * shape.query_words();
      const int64_t bit = row * shape.query_tile;
      if (shape.query_tile < 32) {
        to[bit / 32] |= (from[0] & 0xffff) << bit % 32;
      } else {
        for (int64_t word = 0; word < shape.query_words(); word++) to[bit / 32 + word] |= from[word];
      }
    }
  }
}

}  // namespace

void set_sparse_lanes(const Problem& problem, Tile& tile) {
  SparseWalk& walk = tile.sparse;
  const na_plan& plan = *problem.sparse;
  const PlanReader reader(plan);
  const PlanShape& shape = reader.shape;
  walk.words = walk.stream_count = 0;
  walk.key = walk.end = 0;
  if (tile.gathered) {
    const int64_t block = tile.gathered->block;
    if (block >= 0) {
      walk.key = block * shape.key_block;
      walk.end = std::max(walk.key, std::min(shape.end_key(block), tile.keys));
    }
    if (block >= 0 || !problem.means) return;
  }
  const int64_t tokens = tile.lanes / tile.heads, first = tile.lane_query[0] / shape.query_tile;
  const int rows = static_cast<int>((tokens + shape.query_tile - 1) / shape.query_tile);
  walk.words = rows > 1 || plan.bitmaps ? static_cast<int>((rows * shape.query_tile + 31) / 32) : 0;
  const int64_t head = tile.head * plan.heads / problem.heads, batch = plan.batch == 1 ? 0 : tile.batch;
  for (int row = 0; row < rows && !tile.gathered; row++) {
    const int64_t index = (batch * plan.heads + head) * shape.tiles() + first + row;
    const int64_t begin = reader.begin(index), end = reader.listed_end(index);  // parts are of what is listed
    if (rows > 1) {
      const int64_t middle = full_end(reader, begin, end);
      add_stream(reader, tile.keys, walk, begin, middle, row);
      add_stream(reader, tile.keys, walk, middle, end, row);
    } else {
      const int64_t words = end - begin, part = tile.split.part, parts = tile.split.parts;
      add_stream(reader, tile.keys, walk, begin + words * part / parts, begin + words * (part + 1) / parts, row);
    }
  }
  if (problem.means) set_pooled(problem, reader, tile, (batch * plan.heads + head) * shape.tiles() + first, first);
  const int width = problem.geometry.width, lanes = tile.blocks * problem.geometry.lanes;
  for (int lane = 0; lane < lanes; lane++) {
    walk.lane_bit[lane] =
        lane < tile.lanes ? static_cast<int32_t>(tile.lane_query[lane] - shape.first_query(first)) : 0;
  }
  for (int vector = 0; vector < lanes / width; vector++) {
    const int from = vector * width, to = std::max(from, std::min(from + width, tile.lanes));
    int word = to > from ? walk.lane_bit[from] / 32 : 0;
    uint32_t bits = 0;
    for (int lane = from; lane < to; lane++) {
      if (walk.lane_bit[lane] / 32 != word) word = -1;
      bits |= uint32_t{1} << walk.lane_bit[lane] % 32;
    }
    // A word for lanes that do not exist too: they have bit 0.
    if (to < from + width && word > 0) word = -1;
    walk.vector_word[vector] = word;
    walk.vector_bits[vector] = bits;
  }
}

void set_sparse_intervals(const Problem& problem, Tile& tile) {
  const TilePlan& plan = *tile.plan;
  const int64_t tokens = tile.lanes / tile.heads;
  for (int c = 0; c < plan.constraint_count; c++) {
    const Constraint& constraint = plan.constraints[c];
    const bool flat = constraint.axis < 0 || problem.key_axes == 1;
    const int64_t extent = flat ? tile.keys : problem.key_extent[constraint.axis];
    for (int64_t token = 0; token < tokens; token++) {
      const int64_t query = tile.lane_query[token];
      int64_t x[kMaxAxes] = {query};
      if (!flat) coordinates(query, problem.query_axes, problem.query_extent, x);
      const int64_t along = flat ? query : x[constraint.axis];
      const int64_t residue = along % constraint.dilation;
      const int64_t length = (extent - residue + constraint.dilation - 1) / constraint.dilation;
      int64_t begin, end;
      lane_range(plan, c, along / constraint.dilation, query + tile.keys - tile.queries, length, &begin, &end);
      int64_t low = begin;
      if (constraint.wrap) low = (low % length + length) % length;
      low += residue * tile.code_stride[c];
      for (int64_t lane = token; lane < tile.lanes; lane += tokens) {
        tile.low[c][lane] = static_cast<int32_t>(low);
        tile.length[c][lane] = static_cast<int32_t>(end - begin);
      }
    }
  }
}

void walk_sparse(const Problem& problem, Tile& tile) {
  SparseWalk& walk = tile.sparse;
  const PlanReader reader(*problem.sparse);
  while (tile.ahead < problem.geometry.keys) {
    if (walk.key == walk.end && !next_block(reader, tile.keys, walk)) return;
    const int count = static_cast<int>(std::min<int64_t>(walk.end - walk.key, problem.geometry.keys - tile.ahead));
    add_keys(problem, tile, walk.key, count);
    if (walk.words > 0) add_bits(reader.shape, tile, count);
    tile.ahead += count;
    walk.key += count;
  }
}

bool add_pooled(const Problem& problem, Tile& tile) {
  SparseWalk& walk = tile.sparse;
  const PlanReader reader(*problem.sparse);
  const PlanShape shape = reader.shape.with_keys(tile.keys);
  const int most = problem.geometry.keys;
  const auto means_of = [&](int level, const auto& add) {
    add(SummaryRows(*problem.pooled_k[level]), SummaryRows(*problem.pooled_v[level]));
  };
  tile.count = 0;
  if (walk.pooled < walk.pooled_end) {
    means_of(__builtin_ctzll(static_cast<uint64_t>(shape.key_block)), [&](const SummaryRows& k, const SummaryRows& v) {
      for (; tile.count < most && walk.pooled < walk.pooled_end; walk.pooled++) {
        if (!see_mean(reader, tile, walk.pooled, mean_bits(tile))) continue;
        add_mean(tile, k, v, walk.pooled, shape.end_key(walk.pooled) - walk.pooled * shape.key_block);
      }
    });
  }
  while (tile.count < most && (walk.mean < walk.mean_end || next_means(reader, shape, walk))) {
    means_of(walk.mean_level, [&](const SummaryRows& k, const SummaryRows& v) {
      for (; tile.count < most && walk.mean < walk.mean_end; walk.mean++) {
        const int64_t first = walk.mean << walk.mean_level, end = (walk.mean + 1) << walk.mean_level;
        std::fill_n(mean_bits(tile), walk.words, ~uint32_t{0});
        add_mean(tile, k, v, walk.mean, std::min(end, tile.keys) - first);
      }
    });
  }
  return tile.count > 0;
}

void note_sparse_bits(const Problem&, Tile& tile) {
  SparseWalk& walk = tile.sparse;
  for (int first = 0; walk.words > 0 && first < tile.count; first += kStrip) {
    uint32_t *some = walk.some + first / kStrip * walk.words, *all = walk.all + first / kStrip * walk.words;
    for (int word = 0; word < walk.words; word++) {
      some[word] = 0;
      all[word] = ~uint32_t{0};
      for (int key = first; key < std::min(first + kStrip, tile.count); key++) {
        const uint32_t bits = walk.bits[static_cast<int64_t>(key) * walk.words + word];
        some[word] |= bits;
        all[word] &= bits;
      }
    }
  }
}

void sparse_sight(const Tile& tile, int first_vector, int vectors, int strip, int strips, unsigned* some,
                  unsigned* all) {
  const SparseWalk& walk = tile.sparse;
  if (walk.words == 0) return;
  for (int v = 0; v < vectors; v++) {
    const int word = walk.vector_word[first_vector + v];
    const uint32_t wanted = walk.vector_bits[first_vector + v];
    uint32_t by_some = word < 0 ? wanted : 0, by_all = word < 0 ? 0 : ~uint32_t{0};
    for (int i = strip; i < strips && word >= 0; i++) {
      by_some |= walk.some[i * walk.words + word];
      by_all &= walk.all[i * walk.words + word];
    }
    if ((by_some & wanted) == 0) *some &= ~(1u << v);
    if ((by_all & wanted) != wanted) *all &= ~(1u << v);
  }
}

}  // namespace na::cpu
