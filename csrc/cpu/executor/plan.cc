// Which rows a query tile has, which keys they visit, and the masks of both: closed forms, evaluated once per lane.
#include <initializer_list>
#include <limits>

#include "core/backend.h"
#include "cpu/executor/problem.h"
#include "cpu/job.h"

namespace na::cpu {
namespace {

constexpr int32_t kLowest = std::numeric_limits<int32_t>::min(), kHighest = std::numeric_limits<int32_t>::max();

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return a <= 0 ? 0 : (a - 1) / b + 1; }

// Hands out consecutive aligned pieces of scratch memory; counts only, when there is none.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    char* piece = memory_ ? memory_ + used_ : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }

  template <typename T>
  T** table(int64_t rows, int64_t columns) {
    T** row = take<T*>(rows);
    for (int64_t i = 0; i < rows; i++) {
      T* data = take<T>(columns);
      if (row) row[i] = data;
    }
    return row;
  }

  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

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
  tile.wrap = arena.take<int32_t>(constraints);
  tile.code_stride = arena.take<int64_t>(constraints);
  for (int32_t*** ranges : {&tile.any_low, &tile.any_high, &tile.all_low, &tile.all_high}) {
    *ranges = arena.table<int32_t>(constraints, g.blocks);
  }
  tile.k = arena.take<const char*>(g.keys);
  tile.v = arena.take<const char*>(g.keys);
  tile.key = arena.take<int64_t>(g.keys);
  tile.code = arena.table<int32_t>(constraints, g.keys);
  tile.code_low = arena.take<int32_t>(constraints);
  tile.code_high = arena.take<int32_t>(constraints);
  sums.q = arena.take<float>(lanes * problem.head_pitch);
  sums.out = arena.take<float>(lanes * problem.value_pitch);
  sums.maximum = arena.take<float>(lanes);
  sums.total = arena.take<float>(lanes);
  sums.scores = arena.take<float>(int64_t{g.keys} * g.lanes);
  if (problem.bias_count > 0) sums.bias = arena.take<float>(int64_t{g.keys} * g.lanes);
  sums.k = arena.take<float>(int64_t{g.keys} * problem.head_pitch);
  sums.v = arena.take<float>(int64_t{g.keys} * problem.value_pitch);
  sums.k_row = arena.take<const float*>(g.keys);
  sums.rows = arena.take<float>(kRowsAtOnce * row_pitch(problem));
  if (problem.dtype == NA_BFLOAT16) sums.weights = arena.take<uint16_t>(int64_t{g.keys} * g.lanes);
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

void lane_addresses(const Problem& problem, Tile& tile, int lane) {
  int64_t rest = tile.query_origin + tile.lane_query[lane];
  const int64_t head = tile.lane_head[lane];
  int64_t q = tile.batch * problem.q.batch + head * problem.q.head;
  int64_t out = tile.batch * problem.out.batch + head * problem.out.head;
  int64_t lse = tile.batch * problem.lse.batch + head * problem.lse.head;
  for (int a = problem.query_axes - 1; a >= 0; a--) {
    const int64_t x = rest % problem.query_extent[a];
    rest /= problem.query_extent[a];
    q += x * problem.q.token[a];
    out += x * problem.out.token[a];
    lse += x * problem.lse.token[a];
  }
  tile.lane_q[lane] = problem.q.data + q;
  tile.lane_out[lane] = problem.out.data + out;
  tile.lane_lse[lane] = reinterpret_cast<float*>(problem.lse.data + lse);
}

// What all lanes together visit, while it is being gathered.
struct Reach {
  Range any[kMaxAxes], all[kMaxAxes];  // along the primary constraints, by key axis
  Range flat;                          // of constraints on flat positions that are not primary
  bool empty_lane = false, seen = false;
};

// The extent of a key axis; a ragged batch has one axis, as long as the sequence.
int64_t key_extent(const Problem& problem, const Tile& tile, int axis) {
  return problem.key_axes == 1 ? tile.keys : problem.key_extent[axis];
}

// The intervals of one lane; x are the coordinates of its query.
void lane_intervals(const Problem& problem, Tile& tile, int lane, const int64_t* x, Reach& reach) {
  const TilePlan& plan = *tile.plan;
  const int block = lane / problem.geometry.lanes;
  const int64_t position = tile.lane_query[lane] + tile.keys - tile.queries;
  Range local[kMaxAxes] = {}, flat = {0, tile.keys};
  bool empty = false;
  for (int c = 0; c < plan.constraint_count; c++) {
    const Constraint& constraint = plan.constraints[c];
    int64_t residue = 0, index = 0, length = tile.keys;
    if (constraint.axis >= 0) {
      length = key_extent(problem, tile, constraint.axis);
      if (constraint.dilation > 1) {
        residue = x[constraint.axis] % constraint.dilation;
        length = ceil_div(length - residue, constraint.dilation);
      }
      index = x[constraint.axis] / constraint.dilation;
    }
    Range range = {0, length};
    for (int t = 0; t < plan.term_count; t++) {
      const Term& term = plan.terms[t];
      if (term.constraint != c) continue;
      if (!term.neighborhood) {
        range.intersect(window_range(term, position, length));
      } else if (constraint.wrap) {
        range = neighborhood_range(term, true, index, length);  // a wrapping constraint has one term
      } else {
        range.intersect(neighborhood_range(term, false, index, length));
      }
    }
    if (c < plan.primaries) local[constraint.axis] = range;
    if (constraint.axis < 0) flat = range;
    int64_t low = range.begin;
    if (constraint.wrap) low = (low % length + length) % length;
    tile.low[c][lane] = static_cast<int32_t>(residue * tile.code_stride[c] + low);
    tile.length[c][lane] = static_cast<int32_t>(range.end - range.begin);
    empty |= range.end <= range.begin;
  }
  for (int c = 0; c < plan.constraint_count; c++) {
    if (empty) {
      tile.length[c][lane] = 0;
      tile.all_high[c][block] = kLowest;
    } else if (tile.wrap[c] != 0) {
      tile.any_low[c][block] = kLowest;
      tile.any_high[c][block] = kHighest;
      tile.all_high[c][block] = kLowest;
    } else {
      const int32_t low = tile.low[c][lane], high = low + tile.length[c][lane];
      tile.any_low[c][block] = static_cast<int32_t>(smaller(tile.any_low[c][block], low));
      tile.any_high[c][block] = static_cast<int32_t>(larger(tile.any_high[c][block], high));
      tile.all_low[c][block] = static_cast<int32_t>(larger(tile.all_low[c][block], low));
      tile.all_high[c][block] = static_cast<int32_t>(smaller(tile.all_high[c][block], high));
    }
  }
  reach.empty_lane |= empty;
  if (empty) return;
  for (int a = 0; a < problem.key_axes; a++) {
    if (plan.primary[a] < 0) continue;
    if (!reach.seen) {
      reach.any[a] = reach.all[a] = local[a];
    } else {
      reach.any[a] = {smaller(reach.any[a].begin, local[a].begin), larger(reach.any[a].end, local[a].end)};
      reach.all[a] = {larger(reach.all[a].begin, local[a].begin), smaller(reach.all[a].end, local[a].end)};
    }
  }
  reach.flat = reach.seen ? Range{smaller(reach.flat.begin, flat.begin), larger(reach.flat.end, flat.end)} : flat;
  reach.seen = true;
}

// The box of keys to walk, and the box within it that all lanes see.
void set_walk(const Problem& problem, Tile& tile, const int64_t* query, const Reach& reach) {
  const TilePlan& plan = *tile.plan;
  bool hole = !reach.empty_lane;
  for (int a = 0; a < problem.key_axes; a++) {
    const Constraint* primary = plan.primary[a] < 0 ? nullptr : &plan.constraints[plan.primary[a]];
    const int64_t d = primary ? primary->dilation : 1;
    tile.dilation[a] = d;
    tile.residue[a] = d > 1 ? query[a] % d : 0;
    const int64_t length = tile.group_length[a] = ceil_div(key_extent(problem, tile, a) - tile.residue[a], d);
    Range any = {0, length}, all = any;
    if (!reach.seen && plan.constraint_count > 0) {
      any = all = {0, 0};
    } else if (primary) {
      any = reach.any[a];
      all = reach.all[a];
      if (primary->wrap) any.end = smaller(any.end, any.begin + length);
    }
    if (a == 0 && reach.seen && !(primary && primary->wrap)) {
      int64_t inner = 1;
      for (int i = 1; i < problem.key_axes; i++) inner *= problem.key_extent[i];
      const int64_t first = reach.flat.begin / inner, last = ceil_div(reach.flat.end, inner);
      any.intersect({ceil_div(first - tile.residue[a], d), ceil_div(last - tile.residue[a], d)});
    }
    all.begin = larger(all.begin, any.begin);
    all.end = smaller(all.end, any.end);
    hole &= all.begin < all.end;
    tile.any_begin[a] = any.begin;
    tile.any_end[a] = any.end;
    tile.all_begin[a] = all.begin;
    tile.all_end[a] = all.end;
  }
  for (int a = 0; a < problem.key_axes && !hole; a++) tile.all_begin[a] = tile.all_end[a] = tile.any_begin[a];
}

// Sets the walk to the first key of the box of the phase; false if the box is empty.
bool start_phase(const Problem& problem, Tile& tile, int phase) {
  tile.phase = phase;
  bool some = true;
  for (int a = 0; a < problem.key_axes; a++) {
    tile.at[a] = phase == 1 ? tile.all_begin[a] : tile.any_begin[a];
    some &= tile.at[a] < (phase == 1 ? tile.all_end[a] : tile.any_end[a]);
  }
  if (!some) tile.phase = phase + 1;
  return some;
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
  const int inner = problem.key_axes - 1, from = tile.count;
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
  const char *k_row = problem.k.data + k, *v_row = problem.v.data + v;
  const char **to_k = tile.k + from, **to_v = tile.v + from;
  for (int i = 0; i < count; i++) {
    to_k[i] = k_row + i * k_step;
    to_v[i] = v_row + i * v_step;
  }
  int64_t* to_key = tile.key + from;
  for (int i = 0; i < count; i++) to_key[i] = tile.key_origin + flat + i * step;
  for (int c = tile.first_constraint; c < plan.constraint_count; c++) {
    const Constraint& constraint = plan.constraints[c];
    const int a = constraint.axis;
    int32_t* code = tile.code[c] + from;
    int64_t start = flat, increment = step;
    if (a >= 0) {
      start = x[a] % constraint.dilation * tile.code_stride[c] + x[a] / constraint.dilation;
      increment = a < inner ? 0 : step == constraint.dilation ? 1 : step;
    }
    if (a == inner && constraint.dilation > 1 && step != constraint.dilation) {
      for (int i = 0; i < count; i++) {
        const int64_t at = x[a] + i * step;
        code[i] = static_cast<int32_t>(at % constraint.dilation * tile.code_stride[c] + at / constraint.dilation);
      }
    } else {
      for (int i = 0; i < count; i++) code[i] = static_cast<int32_t>(start + i * increment);
    }
    for (int i = 0; i < count; i++) {
      tile.code_low[c] = static_cast<int32_t>(smaller(tile.code_low[c], code[i]));
      tile.code_high[c] = static_cast<int32_t>(larger(tile.code_high[c], code[i]));
    }
  }
  tile.count += count;
}

// Walks on until the key tile is full or the box of the phase is done.
void walk(const Problem& problem, Tile& tile) {
  const int inner = problem.key_axes - 1;
  const int64_t* begin = tile.phase == 1 ? tile.all_begin : tile.any_begin;
  const int64_t* end = tile.phase == 1 ? tile.all_end : tile.any_end;
  while (tile.count < problem.geometry.keys) {
    int64_t stop = end[inner];
    int64_t& u = tile.at[inner];
    if (tile.phase == 2) {
      bool inside = true;
      for (int a = 0; a < inner; a++) inside &= tile.at[a] >= tile.all_begin[a] && tile.at[a] < tile.all_end[a];
      if (inside && u < tile.all_end[inner]) {
        if (u >= tile.all_begin[inner]) {
          u = tile.all_end[inner];
        } else {
          stop = tile.all_begin[inner];
        }
      }
    }
    if (u < tile.group_length[inner]) stop = smaller(stop, u < 0 ? 0 : tile.group_length[inner]);  // the seam
    const int64_t count = smaller(stop - u, problem.geometry.keys - tile.count);
    if (count > 0) {
      add_run(problem, tile, u, static_cast<int>(count));
      u += count;
    }
    if (u < end[inner]) continue;
    int a = inner - 1;
    u = begin[inner];
    for (; a >= 0 && ++tile.at[a] == end[a]; a--) tile.at[a] = begin[a];
    if (a < 0) {
      if (tile.phase++ == 1) start_phase(problem, tile, 2);
      return;
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

int64_t tile_count(const TilePlan& plan, const int64_t* extent) {
  int64_t count = 1;
  for (int a = 0; a < plan.axes; a++) count *= plan.dilation[a] * tiles_per_group(plan, a, extent[a]);
  return count;
}

void begin_tile(const Problem& problem, Tile& tile, Sums& sums, void* scratch) {
  carve(problem, tile, sums, scratch);
  const TilePlan& plan = *tile.plan;
  const bool flat = plan.axes == 1;

  // The box of this tile: first coordinate and count along each axis.
  int64_t first[kMaxAxes] = {}, count[kMaxAxes] = {}, tokens = 1, rest = tile.index;
  for (int a = plan.axes - 1; a >= 0; a--) {
    const int64_t extent = flat ? tile.queries : problem.query_extent[a];
    const int64_t per_group = tiles_per_group(plan, a, extent);
    const int64_t on_axis = rest % (plan.dilation[a] * per_group);
    rest /= plan.dilation[a] * per_group;
    const int64_t residue = on_axis / per_group, origin = on_axis % per_group * plan.box[a];
    first[a] = residue + origin * plan.dilation[a];
    count[a] = larger(0, smaller(plan.box[a], ceil_div(extent - residue, plan.dilation[a]) - origin));
    tokens *= count[a];
  }
  tile.lanes = static_cast<int>(tokens * tile.heads);
  tile.blocks = (tile.lanes + problem.geometry.lanes - 1) / problem.geometry.lanes;
  tile.phase = problem.extra > 0 ? 0 : 1;
  tile.extra_done = 0;
  if (tokens == 0) return;

  for (int c = 0; c < plan.constraint_count; c++) {
    const Constraint& constraint = plan.constraints[c];
    const int64_t span =
        constraint.axis < 0 ? tile.keys : ceil_div(key_extent(problem, tile, constraint.axis), constraint.dilation);
    tile.wrap[c] = constraint.wrap ? static_cast<int32_t>(span) : 0;
    // On a wrapping axis twice as far apart, so that adding `wrap` never leads into the next dilation group.
    tile.code_stride[c] = constraint.wrap ? 2 * span : span;
    for (int b = 0; b < problem.geometry.blocks; b++) {
      tile.any_low[c][b] = tile.all_high[c][b] = kHighest;
      tile.any_high[c][b] = tile.all_low[c][b] = kLowest;
    }
  }

  Reach reach;
  for (int lane = 0; lane < tile.lanes; lane++) {
    int64_t x[kMaxAxes], token = lane % tokens, query = 0, inner = tokens;
    for (int a = 0; a < plan.axes; a++) {
      inner /= count[a];
      x[a] = first[a] + token / inner * plan.dilation[a];
      token %= inner;
      query = flat ? x[a] : query * problem.query_extent[a] + x[a];
    }
    tile.lane_query[lane] = query;
    tile.lane_head[lane] = static_cast<int32_t>(tile.head + lane / tokens);
    lane_addresses(problem, tile, lane);
    lane_intervals(problem, tile, lane, x, reach);
    tile.lane_query[lane] += tile.query_origin;
  }
  // Lanes without a query see nothing, so that what they hold has no influence on their block.
  for (int c = 0; c < plan.constraint_count; c++) {
    for (int lane = tile.lanes; lane < tile.blocks * problem.geometry.lanes; lane++)
      tile.low[c][lane] = tile.length[c][lane] = 0;
  }
  set_walk(problem, tile, first, reach);
  if (tile.phase == 1 && !start_phase(problem, tile, 1)) start_phase(problem, tile, 2);
}

bool next_keys(const Problem& problem, Tile& tile) {
  if (tile.cancel->requested()) return false;
  const int constraints = tile.plan->constraint_count;
  tile.count = 0;
  tile.extra = tile.phase == 0;
  if (tile.extra) {
    tile.first_constraint = constraints;
    add_extra(problem, tile);
    if (tile.extra_done == problem.extra && !start_phase(problem, tile, 1)) start_phase(problem, tile, 2);
    return true;
  }
  while (tile.count == 0 && tile.phase <= 2) {
    tile.first_constraint = tile.phase == 1 ? tile.plan->primaries : 0;
    for (int c = tile.first_constraint; c < constraints; c++) {
      tile.code_low[c] = kHighest;
      tile.code_high[c] = kLowest;
    }
    walk(problem, tile);
  }
  return tile.count > 0;
}

int row_pitch(const Problem& problem) {
  return static_cast<int>((larger(problem.head_dim, problem.value_dim) + 31) / 32 * 32);
}

Sight sight(const Tile& tile, int block) {
  bool full = true;
  for (int c = tile.first_constraint; c < tile.plan->constraint_count; c++) {
    if (tile.code_high[c] < tile.any_low[c][block] || tile.code_low[c] >= tile.any_high[c][block]) return Sight::kNone;
    full &= tile.code_low[c] >= tile.all_low[c][block] && tile.code_high[c] < tile.all_high[c][block];
  }
  return full ? Sight::kFull : Sight::kPartial;
}

Sight sight(const Tile& tile, int block, int first, int count) {
  bool full = true;
  for (int c = tile.first_constraint; c < tile.plan->constraint_count; c++) {
    int32_t low = kHighest, high = kLowest;
    for (int i = first; i < first + count; i++) {
      low = tile.code[c][i] < low ? tile.code[c][i] : low;
      high = tile.code[c][i] > high ? tile.code[c][i] : high;
    }
    if (high < tile.any_low[c][block] || low >= tile.any_high[c][block]) return Sight::kNone;
    full &= low >= tile.all_low[c][block] && high < tile.all_high[c][block];
  }
  return full ? Sight::kFull : Sight::kPartial;
}

}  // namespace na::cpu
