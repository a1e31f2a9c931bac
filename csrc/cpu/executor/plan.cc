// Which rows a query tile has, which keys they visit, and the masks of both: closed forms, evaluated once per lane.
#include <initializer_list>
#include <limits>
#include <utility>

#include "core/backend.h"
#include "core/dtype.h"
#include "core/plan_entry.h"
#include "cpu/arena.h"
#include "cpu/executor/problem.h"
#include "cpu/job.h"

namespace na::cpu {
namespace {

constexpr int32_t kLowest = std::numeric_limits<int32_t>::min(), kHighest = std::numeric_limits<int32_t>::max();

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return a <= 0 ? 0 : (a - 1) / b + 1; }

size_t carve(const Problem& problem, Tile& tile, Sums& sums, void* scratch) {
  Arena arena(scratch);
  const Geometry& g = problem.geometry;
  const int64_t lanes = int64_t{g.lanes} * g.blocks;
  const int constraints = problem.constraints;
  tile.lane_head = arena.take<int32_t>(lanes);
  tile.lane_query = arena.take<int64_t>(lanes);
  tile.lane_q = arena.take<char*>(lanes);
  tile.lane_out = arena.take<char*>(lanes);
  tile.lane_lse = arena.take<float*>(lanes);
  tile.low = arena.table<int32_t>(constraints, lanes);
  tile.length = arena.table<int32_t>(constraints, lanes);
  tile.low_at = arena.take<int32_t>(lanes);
  tile.length_at = arena.take<int32_t>(lanes);
  tile.wrap = arena.take<int32_t>(constraints);
  tile.code_stride = arena.take<int64_t>(constraints);
  for (int32_t*** ranges : {&tile.any_low, &tile.any_high, &tile.all_low, &tile.all_high}) {
    *ranges = arena.table<int32_t>(constraints, lanes / g.width);
  }
  for (const char*** rows : {&tile.k, &tile.v, &tile.ahead_k, &tile.ahead_v}) *rows = arena.take<const char*>(g.keys);
  for (int64_t** key : {&tile.key, &tile.ahead_key}) *key = arena.take<int64_t>(g.keys);
  if (problem.means) tile.log_counts = arena.take<float>(g.keys);
  for (int32_t*** code : {&tile.code, &tile.ahead_code}) *code = arena.table<int32_t>(constraints, g.keys);
  tile.code_low = arena.table<int32_t>(constraints, ceil_div(g.keys, kStrip));
  tile.code_high = arena.table<int32_t>(constraints, ceil_div(g.keys, kStrip));
  if (problem.pages && problem.pages->int8) {
    const int64_t rows = g.keys * smaller(problem.kv_heads, kMostRows), bytes = dtype_size(problem.dtype);
    tile.wide_k = arena.take<char>(rows * problem.head_dim * bytes);
    tile.wide_v = arena.take<char>(rows * problem.value_dim * bytes);
  }
  tile.sparse = {};
  if (problem.sparse) {
    SparseWalk& sparse = tile.sparse;
    const int64_t rows = ceil_div(lanes, kLeastQueryTile), words = ceil_div(lanes, 32),
                  strips = ceil_div(g.keys, kStrip);
    sparse.streams = arena.take<Stream>(2 * rows);
    sparse.full = arena.take<uint32_t>(words);
    sparse.bitmaps = arena.take<const uint32_t*>(rows);
    for (uint32_t** bits : {&sparse.bits, &sparse.ahead}) *bits = arena.take<uint32_t>(g.keys * words);
    for (uint32_t** bits : {&sparse.some, &sparse.all}) *bits = arena.take<uint32_t>(strips * words);
    sparse.lane_bit = arena.take<int32_t>(lanes);
    sparse.vector_word = arena.take<int32_t>(lanes / g.width);
    sparse.vector_bits = arena.take<uint32_t>(lanes / g.width);
  }
  sums.q = reinterpret_cast<float*>(arena.take<char>(lanes * problem.head_pitch * problem.element_bytes));
  sums.out = arena.take<float>(lanes * problem.value_pitch);
  sums.maximum = arena.take<float>(lanes);
  sums.total = arena.take<float>(lanes);
  sums.scores = arena.take<float>(g.keys * larger(g.lanes, kMostRows));
  if (problem.bias_count > 0) sums.bias = arena.take<float>(int64_t{g.keys} * g.lanes);
  sums.lane_bias = arena.take<float*>(problem.bias_count);
  for (int b = 0; b < problem.bias_count; b++) {
    const Bias& bias = problem.biases[b];
    float* own = arena.take<float>(larger(bias.lane_columns * lanes, kMostRows * rank_pitch(bias)));
    if (sums.lane_bias) sums.lane_bias[b] = own;
  }
  sums.k = reinterpret_cast<float*>(arena.take<char>(int64_t{g.keys} * problem.head_pitch * problem.element_bytes));
  sums.v = reinterpret_cast<float*>(arena.take<char>(int64_t{g.keys} * problem.value_pitch * problem.element_bytes));
  sums.k_row = arena.take<const float*>(g.keys);
  sums.rows = arena.take<float>(2 * kMostRows * row_pitch(problem));
  if (g.parts > 0) sums.weights = arena.take<uint16_t>(int64_t{g.keys} * g.lanes * g.parts);
  sums.factors_q = arena.take<uint16_t>(lanes * problem.factor_pitch);
  sums.factors_k = arena.take<uint16_t>(int64_t{g.keys} * problem.factor_pitch);
  return arena.used();
}

struct Range {
  int64_t begin = 0, end = 0;

  void intersect(Range other) {
    begin = larger(begin, other.begin);
    end = larger(begin, smaller(end, other.end));
  }
};

// The flat positions that a window lets position p see.
Range window_range(const Term& term, int64_t p, int64_t keys) {
  return {term.left < 0 ? 0 : larger(0, p - term.left), term.right < 0 ? keys : smaller(keys, p + term.right + 1)};
}

// Generalized neighborhood attention on one axis: what index i of a dilation group of the given length sees.
// On a wrapping axis the range may begin below 0 or end beyond the length.
Range neighborhood_range(const Term& term, bool wrap, int64_t i, int64_t length) {
  const int64_t first = i / term.stride * term.stride;
  if (term.causal) {
    const int64_t leader = smaller(first + term.stride - 1, length - 1);
    return {larger(leader - term.window + 1, 0), i + 1};
  }
  const int64_t leader = smaller(first + term.stride / 2, length - 1);
  int64_t begin = leader - term.window / 2;
  if (!wrap) begin = larger(0, smaller(begin, length - term.window));
  return {begin, begin + term.window};
}

// How many tiles an axis has, and the part of it that is tile `index`.
int64_t tiles_per_group(const TilePlan& plan, int axis, int64_t extent) {
  return ceil_div(ceil_div(extent, plan.dilation[axis]), plan.box[axis]);
}

// The queries of a tile: first coordinate and count along each axis of the plan.
struct Box {
  int64_t first[kMaxAxes] = {}, count[kMaxAxes] = {}, tokens = 1;
};

Box box_of(const Problem& problem, const Tile& tile) {
  const TilePlan& plan = *tile.plan;
  Box box;
  int64_t rest = tile.index;
  for (int a = plan.axes - 1; a >= 0; a--) {
    const int64_t extent = plan.axes == 1 ? tile.queries : problem.query_extent[a];
    const int64_t per_group = tiles_per_group(plan, a, extent);
    const int64_t on_axis = rest % (plan.dilation[a] * per_group);
    rest /= plan.dilation[a] * per_group;
    const int64_t residue = on_axis / per_group, origin = on_axis % per_group * plan.box[a];
    box.first[a] = residue + origin * plan.dilation[a];
    box.count[a] = larger(0, smaller(plan.box[a], ceil_div(extent - residue, plan.dilation[a]) - origin));
    box.tokens *= box.count[a];
  }
  return box;
}

// The tokens of a box in the order of their lanes: block after block.
class LaneOrder {
 public:
  LaneOrder(const TilePlan& plan, const Box& box) : plan_(plan), box_(box) {}

  int64_t at(int axis) const { return at_[axis]; }

  // How many tokens from this one on lie side by side along the innermost axis.
  int64_t run() const {
    const int a = plan_.axes - 1;
    return smaller(block_[a] + plan_.block[a], box_.count[a]) - at_[a];
  }

  // To the token behind them.
  void next_run() {
    const int inner = plan_.axes - 1;
    at_[inner] = block_[inner];
    for (int a = inner - 1; a >= 0; a--) {
      if (++at_[a] < smaller(block_[a] + plan_.block[a], box_.count[a])) return;
      at_[a] = block_[a];
    }
    for (int a = inner; a >= 0; a--) {
      block_[a] += plan_.block[a];
      if (block_[a] < box_.count[a]) break;
      block_[a] = 0;
    }
    for (int a = 0; a < plan_.axes; a++) at_[a] = block_[a];
  }

 private:
  const TilePlan& plan_;
  const Box& box_;
  int64_t block_[kMaxAxes] = {}, at_[kMaxAxes] = {};  // counted from the first token of the box
};

// Which query each lane is, and where its rows are. Coordinates go through the box or, where the plan has fewer axes
// than the queries, through all of the tensor.
void set_lanes(const Problem& problem, Tile& tile, const Box& box) {
  const TilePlan& plan = *tile.plan;
  const int axes = problem.query_axes;
  const bool flat = plan.axes < axes;
  int64_t start[kMaxAxes], rest = box.first[0];
  for (int a = axes - 1; a >= 0; a--) {
    start[a] = flat ? rest % problem.query_extent[a] : tile.query_origin + box.first[a];  // origins come with one axis
    rest /= problem.query_extent[a];
  }
  const int inner = axes - 1;
  const int64_t step = flat ? 1 : plan.dilation[inner];
  int lane = 0;
  for (int64_t head = tile.head; head < tile.head + tile.heads; head++) {
    int64_t x[kMaxAxes];
    for (int a = 0; a < axes; a++) x[a] = start[a];
    LaneOrder order(plan, box);
    for (int64_t token = 0; token < box.tokens;) {
      char* q = problem.q.data + tile.batch * problem.q.batch + head * problem.q.head;
      char* out = problem.out.data + tile.batch * problem.out.batch + head * problem.out.head;
      char* lse = problem.lse.data + tile.batch * problem.lse.batch + head * problem.lse.head;
      int64_t query = 0;
      for (int a = 0; a < axes; a++) {
        q += x[a] * problem.q.token[a];
        out += x[a] * problem.out.token[a];
        lse += x[a] * problem.lse.token[a];
        query = query * problem.query_extent[a] + x[a];
      }
      const int64_t run = flat ? smaller(box.tokens - token, problem.query_extent[inner] - x[inner]) : order.run();
      for (int64_t i = 0; i < run; i++, lane++) {
        tile.lane_q[lane] = q + i * step * problem.q.token[inner];
        tile.lane_out[lane] = out + i * step * problem.out.token[inner];
        tile.lane_lse[lane] = reinterpret_cast<float*>(lse + i * step * problem.lse.token[inner]);
        tile.lane_query[lane] = query + i * step;
        tile.lane_head[lane] = static_cast<int32_t>(head);
      }
      token += run;
      if (flat) {
        x[inner] += run;
        for (int a = inner; a > 0 && x[a] == problem.query_extent[a]; a--) {
          x[a] = 0;
          x[a - 1]++;
        }
      } else {
        order.next_run();
        for (int a = 0; a < axes; a++) x[a] = start[a] + order.at(a) * plan.dilation[a];
      }
    }
  }
}

// Likewise, of queries anywhere.
void set_gathered_lanes(const Problem& problem, Tile& tile) {
  const Gathered& gathered = *tile.gathered;
  int lane = 0;
  for (int64_t head = tile.head; head < tile.head + tile.heads; head++) {
    for (int i = 0; i < gathered.count; i++, lane++) {
      const int64_t query = gathered.queries[i];
      tile.lane_q[lane] = problem.q.data + problem.offset(problem.q, tile.batch, head, query);
      tile.lane_query[lane] = query;
      tile.lane_head[lane] = static_cast<int32_t>(head);
    }
  }
}

// What all lanes together visit, while it is being gathered.
struct Reach {
  Range any[kMaxAxes];         // along the primary constraints, by key axis
  Range flat = {0, kHighest};  // of the constraint on flat positions
  bool empty_lane = false, seen = true;
};

// The extent of a key axis; a ragged batch has one axis, as long as the sequence.
int64_t key_extent(const Problem& problem, const Tile& tile, int axis) {
  return problem.key_axes == 1 ? tile.keys : problem.key_extent[axis];
}

// What a query sees under a constraint: one at `position` among all, or at `index` of a dilation group of the given
// length.
Range lane_range(const TilePlan& plan, int c, int64_t index, int64_t position, int64_t length) {
  Range range = {0, length};
  for (int t = 0; t < plan.term_count; t++) {
    const Term& term = plan.terms[t];
    if (term.constraint != c) continue;
    if (!term.neighborhood) {
      range.intersect(window_range(term, position, length));
    } else if (plan.constraints[c].wrap) {
      range = neighborhood_range(term, true, index, length);  // a wrapping constraint has one term
    } else {
      range.intersect(neighborhood_range(term, false, index, length));
    }
  }
  return range;
}

// The intervals of all lanes under one constraint. They depend on the coordinate along its axis alone, or on the flat
// position of the query.
void set_intervals(const Problem& problem, Tile& tile, int c, const Box& box, Reach& reach) {
  const TilePlan& plan = *tile.plan;
  const Constraint& constraint = plan.constraints[c];
  const int axis = constraint.axis;
  const int64_t count = axis < 0 ? box.tokens : box.count[axis];
  const bool primary = c < plan.primaries;
  Range any = {kHighest, kLowest};
  for (int64_t i = 0; i < count; i++) {
    const int64_t x = axis < 0 ? 0 : box.first[axis] + i * plan.dilation[axis];
    const int64_t query = axis < 0 ? tile.lane_query[i] - tile.query_origin : x;
    int64_t residue = 0, index = x, length = axis < 0 ? tile.keys : key_extent(problem, tile, axis);
    if (constraint.dilation > 1) {
      residue = x % constraint.dilation;
      index = x / constraint.dilation;
      length = ceil_div(length - residue, constraint.dilation);
    }
    const Range range = lane_range(plan, c, index, query + tile.keys - tile.queries, length);
    if (range.end > range.begin) {
      any = {smaller(any.begin, range.begin), larger(any.end, range.end)};
    } else {
      reach.empty_lane = true;
    }
    int64_t low = range.begin;
    if (!primary) {
      if (constraint.wrap) low = (low % length + length) % length;
      low += residue * tile.code_stride[c];
    }
    tile.low_at[i] = static_cast<int32_t>(low);
    tile.length_at[i] = static_cast<int32_t>(range.end - range.begin);
  }
  for (int64_t lane = 0; lane < tile.lanes;) {
    LaneOrder order(plan, box);
    for (int64_t token = 0, run; token < box.tokens; token += run, order.next_run()) {
      run = order.run();
      const int64_t first = axis < 0 ? token : order.at(axis), step = axis < 0 || axis == plan.axes - 1 ? 1 : 0;
      for (int64_t i = 0; i < run; i++, lane++) {
        tile.low[c][lane] = tile.low_at[first + i * step];
        tile.length[c][lane] = tile.length_at[first + i * step];
      }
    }
  }
  if (primary) reach.any[axis] = any;
  if (axis < 0) reach.flat = any;
}

// A lane that sees nothing under one constraint sees nothing.
void clear_empty_lanes(Tile& tile, Reach& reach) {
  const int constraints = tile.plan->constraint_count;
  reach.seen = false;
  for (int lane = 0; lane < tile.lanes; lane++) {
    bool empty = false;
    for (int c = 0; c < constraints; c++) empty |= tile.length[c][lane] == 0;
    for (int c = 0; c < constraints && empty; c++) tile.length[c][lane] = 0;
    reach.seen |= !empty;
  }
}

// What the lanes of each vector see together.
void vector_intervals(const Problem& problem, Tile& tile) {
  const int width = problem.geometry.width, vectors = (tile.lanes + width - 1) / width;
  for (int c = 0; c < tile.plan->constraint_count; c++) {
    const int32_t *low = tile.low[c], *length = tile.length[c];
    // What lies across the seam of a wrapping axis is not an interval of codes.
    const int axis = tile.plan->constraints[c].axis;
    const int64_t walked = c < tile.plan->primaries ? tile.begin[axis] + tile.wrap[c] : kLowest;
    for (int v = 0; v < vectors; v++) {
      const int begin = v * width, end = static_cast<int>(smaller(begin + width, tile.lanes));
      int32_t any_low = kHighest, any_high = kLowest, all_low = kLowest, all_high = kHighest;
      for (int lane = begin; lane < end; lane++) {
        // A lane that sees nothing has the interval without numbers.
        const bool empty = length[lane] == 0;
        const int32_t from = empty ? kHighest : low[lane], to = empty ? kLowest : low[lane] + length[lane];
        any_low = from < any_low ? from : any_low;
        any_high = to > any_high ? to : any_high;
        all_low = from > all_low ? from : all_low;
        all_high = to < all_high ? to : all_high;
      }
      if (tile.wrap[c] != 0 && any_high > walked) {
        any_low = all_high = kLowest;
        any_high = kHighest;
      }
      tile.any_low[c][v] = any_low;
      tile.any_high[c][v] = any_high;
      tile.all_low[c][v] = all_low;
      tile.all_high[c][v] = all_high;
    }
  }
}

// The box of keys to walk.
void set_walk(const Problem& problem, Tile& tile, const int64_t* query, const Reach& reach) {
  const TilePlan& plan = *tile.plan;
  bool some = reach.seen;
  for (int a = 0; a < problem.key_axes; a++) {
    const Constraint* primary = plan.primary[a] < 0 ? nullptr : &plan.constraints[plan.primary[a]];
    const int64_t d = primary ? primary->dilation : 1;
    tile.dilation[a] = d;
    tile.residue[a] = d > 1 ? query[a] % d : 0;
    const int64_t length = tile.group_length[a] = ceil_div(key_extent(problem, tile, a) - tile.residue[a], d);
    Range any = primary ? reach.any[a] : Range{0, length};
    if (primary && primary->wrap) {
      any.end = smaller(any.end, any.begin + length);
    } else if (a == 0) {
      int64_t inner = 1;
      for (int i = 1; i < problem.key_axes; i++) inner *= problem.key_extent[i];
      const int64_t first = reach.flat.begin / inner, last = ceil_div(reach.flat.end, inner);
      any.intersect({ceil_div(first - tile.residue[a], d), ceil_div(last - tile.residue[a], d)});
    }
    some &= any.begin < any.end;
    tile.begin[a] = tile.at[a] = any.begin;
    tile.end[a] = any.end;
  }
  if (!some) tile.at[0] = tile.end[0];
}

// Leaves of the walk the part's share of the outermost axis.
void take_part(Tile& tile) {
  const Split& split = tile.split;
  const int64_t from = tile.at[0], keys = tile.end[0] - from;
  tile.begin[0] = tile.at[0] = from + keys * split.part / split.parts;
  tile.end[0] = from + keys * (split.part + 1) / split.parts;
}

int64_t coordinate(const Tile& tile, int axis, int64_t u) {
  const int64_t length = tile.group_length[axis];
  if (u < 0) u += length;
  if (u >= length) u -= length;
  return tile.residue[axis] + tile.dilation[axis] * u;
}

// Adds keys u ... u + count - 1 of the innermost axis, of which none lies across the seam of a wrapping axis.
void add_run(const Problem& problem, Tile& tile, int64_t u, int count) {
  const TilePlan& plan = *tile.plan;
  const int inner = problem.key_axes - 1, from = tile.ahead;
  int64_t x[kMaxAxes], flat = 0;
  int64_t k = tile.batch * problem.k.batch + tile.kv_head * problem.k.head;
  int64_t v = tile.batch * problem.v.batch + tile.kv_head * problem.v.head;
  for (int a = 0; a <= inner; a++) {
    x[a] = coordinate(tile, a, a == inner ? u : tile.at[a]);
    flat = flat * key_extent(problem, tile, a) + x[a];
    k += (x[a] + tile.key_origin) * problem.k.token[a];  // an origin other than 0 comes with one axis only
    v += (x[a] + tile.key_origin) * problem.v.token[a];
  }
  const int64_t step = tile.dilation[inner], k_step = step * problem.k.token[inner],
                v_step = step * problem.v.token[inner];
  const char **to_k = tile.ahead_k + from, **to_v = tile.ahead_v + from;
  if (problem.pages) {
    find_pages(problem, tile, u, count, to_k, to_v);
  } else {
    const char *k_row = problem.k.data + k, *v_row = problem.v.data + v;
    for (int i = 0; i < count; i++) {
      to_k[i] = k_row + i * k_step;
      to_v[i] = v_row + i * v_step;
    }
  }
  int64_t* to_key = tile.ahead_key + from;
  for (int i = 0; i < count; i++) to_key[i] = tile.key_origin + flat + i * step;
  for (int c = 0; c < plan.constraint_count; c++) {
    const Constraint& constraint = plan.constraints[c];
    const int a = constraint.axis;
    int32_t* code = tile.ahead_code[c] + from;
    int64_t start = flat, increment = step;
    if (c < plan.primaries) {
      start = a < inner ? tile.at[a] : u;
      increment = a < inner ? 0 : 1;
    } else if (a >= 0) {
      start = x[a] % constraint.dilation * tile.code_stride[c] + x[a] / constraint.dilation;
      increment = a < inner ? 0 : step == constraint.dilation ? 1 : step;
    }
    if (c >= plan.primaries && a == inner && constraint.dilation > 1 && step != constraint.dilation) {
      for (int i = 0; i < count; i++) {
        const int64_t at = x[a] + i * step;
        code[i] = static_cast<int32_t>(at % constraint.dilation * tile.code_stride[c] + at / constraint.dilation);
      }
    } else {
      for (int i = 0; i < count; i++) code[i] = static_cast<int32_t>(start + i * increment);
    }
  }
  tile.ahead += count;
}

// Walks on until a key tile is full or the box is done.
void walk(const Problem& problem, Tile& tile) {
  const int inner = problem.key_axes - 1;
  tile.ahead = tile.fetched = 0;
  if (problem.sparse) return walk_sparse(problem, tile);
  while (tile.ahead < problem.geometry.keys && tile.at[0] < tile.end[0]) {
    int64_t stop = tile.end[inner];
    int64_t& u = tile.at[inner];
    if (u < tile.group_length[inner]) stop = smaller(stop, u < 0 ? 0 : tile.group_length[inner]);  // the seam
    const int64_t count = smaller(stop - u, problem.geometry.keys - tile.ahead);
    add_run(problem, tile, u, static_cast<int>(count));
    u += count;
    for (int a = inner; a > 0 && tile.at[a] == tile.end[a]; a--) {
      tile.at[a] = tile.begin[a];
      tile.at[a - 1]++;
    }
  }
}

void add_extra(const Problem& problem, Tile& tile) {
  tile.count = static_cast<int>(smaller(problem.extra - tile.extra_done, problem.geometry.keys));
  for (int i = 0; i < tile.count; i++) {
    const int64_t x = tile.extra_done + i;
    const auto row = [&](const Rows& rows) {
      return rows.data + tile.batch * rows.batch + tile.kv_head * rows.head + x * rows.token[0];
    };
    tile.k[i] = row(problem.extra_k);
    tile.v[i] = row(problem.extra_v);
  }
  tile.extra_done += tile.count;
}

}  // namespace

size_t scratch_bytes(const Problem& problem) {
  Tile tile;
  Sums sums;
  return carve(problem, tile, sums, nullptr);
}

void find_pages(const Problem& problem, const Tile& tile, int64_t u, int count, const char** k, const char** v) {
  const Pages& pages = *problem.pages;
  void* const* const table = pages.tables[tile.batch];
  const int64_t k_head = tile.kv_head * problem.k.head, v_head = tile.kv_head * problem.v.head + pages.value_offset;
  int64_t page = u / pages.tokens, token = u % pages.tokens;
  for (int i = 0; i < count; i++) {
    const char* const at = static_cast<const char*>(table[page]);
    k[i] = at + k_head + token * problem.k.token[0];
    v[i] = at + v_head + token * problem.v.token[0];
    if (++token == pages.tokens) {
      token = 0;
      page++;
    }
  }
}

void lane_range(const TilePlan& plan, int c, int64_t index, int64_t position, int64_t length, int64_t* begin,
                int64_t* end) {
  const Range range = lane_range(plan, c, index, position, length);
  *begin = range.begin;
  *end = range.end;
}

int64_t tile_count(const TilePlan& plan, const int64_t* extent) {
  int64_t count = 1;
  for (int a = 0; a < plan.axes; a++) count *= plan.dilation[a] * tiles_per_group(plan, a, extent[a]);
  return count;
}

void begin_tile(const Problem& problem, Tile& tile, Sums& sums, void* scratch) {
  carve(problem, tile, sums, scratch);
  const TilePlan& plan = *tile.plan;
  const Gathered* const gathered = tile.gathered;
  const Box box = gathered ? Box() : box_of(problem, tile);
  tile.lanes = static_cast<int>((gathered ? gathered->count : box.tokens) * tile.heads);
  tile.blocks = (tile.lanes + problem.geometry.lanes - 1) / problem.geometry.lanes;
  tile.begins = gathered ? gathered->block < 0 : tile.split.part == 0;
  tile.extra_done = tile.begins ? 0 : problem.extra;
  if (tile.lanes == 0) return;

  if (gathered) {
    set_gathered_lanes(problem, tile);
  } else {
    set_lanes(problem, tile, box);
  }
  Reach reach;
  for (int c = 0; c < plan.constraint_count; c++) {
    const Constraint& constraint = plan.constraints[c];
    const int64_t span =
        constraint.axis < 0 ? tile.keys : ceil_div(key_extent(problem, tile, constraint.axis), constraint.dilation);
    tile.wrap[c] = constraint.wrap ? static_cast<int32_t>(span) : 0;
    // On a wrapping axis twice as far apart, so that adding `wrap` never leads into the next dilation group.
    tile.code_stride[c] = constraint.wrap ? 2 * span : span;
    if (!problem.sparse) set_intervals(problem, tile, c, box, reach);
  }
  if (problem.sparse) {
    set_sparse_lanes(problem, tile);
    set_sparse_intervals(problem, tile);
    reach.empty_lane = true;
  }
  if (reach.empty_lane) clear_empty_lanes(tile, reach);
  // Lanes without a query see nothing, so that what they hold has no influence on their block.
  for (int c = 0; c < plan.constraint_count; c++) {
    for (int lane = tile.lanes; lane < tile.blocks * problem.geometry.lanes; lane++)
      tile.low[c][lane] = tile.length[c][lane] = 0;
  }
  if (!problem.sparse) {
    set_walk(problem, tile, box.first, reach);
    if (tile.split.parts > 1) take_part(tile);
  }
  vector_intervals(problem, tile);
  walk(problem, tile);
}

bool next_keys(const Problem& problem, Tile& tile) {
  if (tile.cancel->requested()) return false;
  const bool extra = tile.extra_done < problem.extra;
  tile.pooled = !extra && problem.means && add_pooled(problem, tile);
  tile.extra = extra || tile.pooled;
  tile.constraints = tile.extra ? 0 : tile.plan->constraint_count;
  const int64_t bytes = dtype_size(problem.dtype);  // means have that of the keys
  tile.k_head = extra ? problem.extra_k.head : tile.pooled ? problem.head_dim * bytes : problem.k.head;
  tile.v_head = extra ? problem.extra_v.head : tile.pooled ? problem.value_dim * bytes : problem.v.head;
  if (extra) {
    add_extra(problem, tile);
  } else if (tile.pooled) {
    note_sparse_bits(problem, tile);
  } else {
    std::swap(tile.k, tile.ahead_k);
    std::swap(tile.v, tile.ahead_v);
    std::swap(tile.key, tile.ahead_key);
    std::swap(tile.code, tile.ahead_code);
    std::swap(tile.sparse.bits, tile.sparse.ahead);
    tile.count = tile.ahead;
    if (problem.sparse) note_sparse_bits(problem, tile);
    walk(problem, tile);
  }
  for (int c = 0; c < tile.constraints; c++) {
    const int32_t* code = tile.code[c];
    for (int strip = 0, first = 0; first < tile.count; strip++, first += kStrip) {
      int32_t low = kHighest, high = kLowest;
      for (int i = first; i < tile.count && i < first + kStrip; i++) {
        low = code[i] < low ? code[i] : low;
        high = code[i] > high ? code[i] : high;
      }
      tile.code_low[c][strip] = low;
      tile.code_high[c][strip] = high;
    }
  }
  return tile.count > 0;
}

int row_pitch(const Problem& problem) {
  return static_cast<int>((larger(problem.head_dim, problem.value_dim) + 31) / 32 * 32);
}

int rank_pitch(const Bias& bias) { return bias.kind == NA_BIAS_LOW_RANK ? (bias.columns + 31) / 32 * 32 : 0; }

Sight sight(const Problem& problem, const Tile& tile, int block, int first, int count) {
  const int width = problem.geometry.width, vectors = problem.geometry.lanes / width, begin = block * vectors;
  const int used = static_cast<int>(smaller(vectors, (tile.lanes + width - 1) / width - begin));
  const int strip = first / kStrip, strips = (first + count + kStrip - 1) / kStrip;
  int32_t low, high;
  const auto set_codes = [&](int c) {
    low = tile.code_low[c][strip];
    high = tile.code_high[c][strip];
    for (int i = strip + 1; i < strips; i++) {
      low = tile.code_low[c][i] < low ? tile.code_low[c][i] : low;
      high = tile.code_high[c][i] > high ? tile.code_high[c][i] : high;
    }
  };
  unsigned some = (1u << used) - 1;  // bits are vectors
  for (int c = 0; c < tile.constraints; c++) {
    set_codes(c);
    const int32_t *any_low = tile.any_low[c] + begin, *any_high = tile.any_high[c] + begin;
    for (int v = 0; v < used; v++) some &= ~(static_cast<unsigned>((high < any_low[v]) | (low >= any_high[v])) << v);
  }
  unsigned all_bits = ~0u;
  if (problem.sparse && (!tile.extra || tile.pooled)) sparse_sight(tile, begin, used, strip, strips, &some, &all_bits);
  if (some == 0) return {0, 0, ~0u};
  Sight seen = {0, used, 0};
  while (!(some >> seen.from & 1)) seen.from++;
  while (!(some >> (seen.to - 1) & 1)) seen.to--;
  for (int c = 0; c < tile.constraints; c++) {
    set_codes(c);
    const int32_t *all_low = tile.all_low[c] + begin, *all_high = tile.all_high[c] + begin;
    bool all = true;
    for (int v = seen.from; v < seen.to; v++) all &= (low >= all_low[v]) & (high < all_high[v]);
    if (!all) seen.hiding |= 1u << smaller(c, kLastBit);
  }
  for (int v = seen.from; v < seen.to; v++) {
    if (!(all_bits >> v & 1)) seen.hiding |= 1u << kSparseBit;
  }
  return seen;
}

}  // namespace na::cpu
