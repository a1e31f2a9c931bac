#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "core/plan_entry.h"
#include "cpu/arena.h"
#include "cpu/element.h"
#include "cpu/executor/problem.h"
#include "cpu/key_major.h"

namespace na::cpu {
namespace {

// Blocks are what registers hold; key tiles are sized for the first-level cache, query tiles for the second.
constexpr Geometry kGeneric = {4, 4 * 2, 16, 64, 0, 1, 4, 2}, kAvx2 = {8, 8 * 2, 8, 64, 0, 1, 6, 4},
                   kAvx512 = {16, 16 * 4, 16, 64, 0, 1, 4, 8};
constexpr Geometry kAmxFloat32 = {16, 16 * 2, 16, 128, 3, 32, 32, 4}, kAmxFloat16 = {16, 16 * 2, 16, 128, 2, 32, 32, 4},
                   kAmxBfloat16 = {16, 16 * 2, 32, 256, 1, 32, 32, 4};

// Tiles per thread below which tiles are made smaller, so that threads end at about the same time. Where tiles end
// decides in which order masked sums are made: with masks, results differ by rounding between numbers of threads.
constexpr int64_t kTilesPerThread = 4;

// The keys of tiles that rows.h does are split into parts of so many bytes of K and V, but into so many parts in all at
// least, unless these would not be worth a task, and at most. The number of threads has no say: it changes no result.
constexpr int64_t kPartBytes = 2 << 20, kLeastPartBytes = 128 << 10, kLeastParts = 4, kMostParts = 128;
constexpr int64_t kUnsplit = std::numeric_limits<int64_t>::max() / 2;

// A plan of so many of the blocks is walked as if it had all of them: rows of it share tiles of keys.
constexpr double kBreakEven = 0.8;

// To find a query for a block of keys, and to add its sums to those it has, takes as long as so many keys do: where
// queries see little of what their tiles list, a plan is walked by blocks of keys none the less. Runs of queries have
// so many of its tiles at least.
constexpr double kGatheringKeys = 32;
constexpr int64_t kLeastRunTiles = 4;

constexpr float kLn2 = 0.693147181f;

Geometry geometry_of(Isa isa, int dtype) {
  switch (isa) {
    case Isa::kAvx2: return kAvx2;
    case Isa::kAvx512: return kAvx512;
    case Isa::kAmx: return dtype == NA_FLOAT32 ? kAmxFloat32 : dtype == NA_FLOAT16 ? kAmxFloat16 : kAmxBfloat16;
    default: return kGeneric;
  }
}

using Run = void (*)(const Problem&, Tile&, Sums&);

Run run_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return run_avx2;
    case Isa::kAvx512: return run_avx512;
    case Isa::kAmx: return run_amx;
#endif
    default: return run_generic;
  }
}

// Tensors are [batch, tokens..., heads, headDim].
Rows rows_of(const na_tensor& tensor, int heads_axis) {
  const int64_t bytes = tensor.dtype == NA_FLOAT32 ? 4 : 2;
  Rows rows = {};
  rows.data = static_cast<char*>(tensor.data);
  rows.batch = tensor.stride[0] * bytes;
  rows.head = tensor.stride[heads_axis] * bytes;
  for (int a = 0; a + 1 < heads_axis; a++) rows.token[a] = tensor.stride[a + 1] * bytes;
  return rows;
}

Factors factors_of(const na_tensor& tensor) {
  Factors factors = {};
  factors.data = static_cast<const float*>(tensor.data);
  factors.batch = tensor.stride[0];
  factors.head = tensor.rank == 4 ? tensor.stride[1] : 0;  // coordinates are those of all heads
  factors.token = tensor.stride[tensor.rank - 2];
  factors.column = tensor.stride[tensor.rank - 1];
  return factors;
}

Bias bias_of(const na_bias& given, const Problem& problem) {
  Bias bias = {};
  bias.kind = given.kind;
  bias.heads = problem.heads;
  const na_tensor* tensor = given.tensor;
  if (tensor) bias.data = static_cast<const float*>(tensor->data);
  if (given.query) {
    bias.q = factors_of(*given.query);
    bias.k = factors_of(*given.key);
    bias.columns = static_cast<int>(given.key->shape[given.key->rank - 1]);
  }
  switch (given.kind) {
    case NA_BIAS_DENSE:
      bias.batch = tensor->stride[0];
      bias.head = tensor->stride[1];
      bias.query = tensor->stride[2];
      bias.key = tensor->stride[3];
      bias.places = given.places;
      break;
    case NA_BIAS_LOW_RANK: bias.lane_columns = bias.columns; break;
    case NA_BIAS_ALIBI:
      if (tensor) bias.head = tensor->stride[0];
      bias.lane_columns = 3;
      break;
    case NA_BIAS_DISTANCE:
      if (tensor) {
        bias.batch = tensor->stride[0];
        bias.head = tensor->stride[1];
        bias.query = tensor->stride[2];
      }
      bias.lane_columns = bias.columns + 2;
      break;
    case NA_BIAS_RELATIVE:
      bias.head = tensor->stride[0];
      bias.axes = problem.query_axes;
      bias.lane_columns = bias.axes + 1;
      bias.covered = true;
      for (int axis = 0; axis < bias.axes; axis++) {
        bias.extent[axis] = problem.query_extent[axis];
        bias.step[axis] = given.step[axis];
        bias.reach[axis] = tensor->shape[axis + 1] / 2;
        bias.stride[axis] = tensor->stride[axis + 1];
        // Two tokens are less than the longer axis apart, and steps of them by no more than what that makes.
        const int64_t apart = std::max(problem.query_extent[axis], problem.key_extent[axis]) - 1;
        bias.covered &= bias.reach[axis] >= (apart + bias.step[axis] - 1) / bias.step[axis];
      }
      break;
  }
  return bias;
}

// Of the parts of all biases of low rank.
int64_t factor_columns(const Problem& problem) {
  int64_t columns = 0;
  for (int b = 0; b < problem.bias_count; b++) {
    if (problem.biases[b].kind == NA_BIAS_LOW_RANK) columns += int64_t{kFactorProducts} * problem.biases[b].columns;
  }
  return (columns + 31) / 32 * 32;
}

// Tile registers add biases of low rank to the products of q and k, which are scaled later but must not be capped. What
// keeps them from it, or null.
const char* obstacle(const Problem& problem) {
  if (problem.geometry.parts == 0) return "needs the AMX instructions, which this process does not use";
  if (problem.cap != 0) return "adds to scores before softcap would change them: leave softcap out";
  if (problem.scale == 0) return "divides factors by the scale, which is 0";
  if (factor_columns(problem) > kMostFactorPitch) return "takes a rank of 64 at most, of all biases together";
  return nullptr;
}

bool asks_for(const na_attention& a, na_low_rank_path path) {
  return std::any_of(a.biases, a.biases + a.bias_count, [&](const na_bias& bias) { return bias.path == path; });
}

bool collapses(const Rows& rows, const int64_t* extent, int axes) {
  bool yes = true;
  for (int a = 0; a + 1 < axes; a++) yes &= rows.token[a] == rows.token[a + 1] * extent[a + 1];
  return yes;
}

// A problem together with the arrays it points to.
struct Description {
  Problem problem = {};
  Pages pages = {};
  std::vector<Bias> biases;
  std::vector<TilePlan> plans;  // one, or one per head
  std::vector<std::vector<Constraint>> constraints;
  std::vector<std::vector<Term>> terms;

  Description(const na_attention& a, Geometry geometry) {
    Problem& p = problem;
    const na_tensor &q = *a.q, &k = *a.k;
    p.dtype = q.dtype;
    p.batch = q.shape[0];
    p.heads = q.shape[q.rank - 2];
    p.kv_heads = k.shape[k.rank - 2];
    p.group = p.heads / p.kv_heads;
    p.head_dim = static_cast<int>(q.shape[q.rank - 1]);
    p.value_dim = static_cast<int>(a.v->shape[a.v->rank - 1]);
    p.query_axes = q.rank - 3;
    p.key_axes = k.rank - 3;
    p.queries = p.keys = 1;
    for (int i = 0; i < p.query_axes; i++) p.queries *= p.query_extent[i] = q.shape[i + 1];
    for (int i = 0; i < p.key_axes; i++) p.keys *= p.key_extent[i] = k.shape[i + 1];
    p.q = rows_of(q, q.rank - 2);
    p.k = rows_of(k, k.rank - 2);
    p.v = rows_of(*a.v, a.v->rank - 2);
    p.out = rows_of(*a.out, a.out->rank - 2);
    p.lse = rows_of(*a.lse, a.lse->rank - 1);
    if (a.pages) {
      pages = {a.pages->page_tokens, a.pages->value_offset, a.pages->tables, a.pages->lengths, a.pages->int8 != 0};
      p.pages = &pages;
      if (pages.int8) {
        p.k = int8_rows(p, p.head_dim);
        p.v = int8_rows(p, p.value_dim);
      }
    }
    if (a.extra_k) {
      p.extra_k = rows_of(*a.extra_k, 2);
      p.extra_v = rows_of(*a.extra_v, 2);
      p.extra = a.extra_k->shape[1];
    }
    if (a.sinks) {
      p.sinks = static_cast<const float*>(a.sinks->data);
      p.sink_stride = a.sinks->stride[0];
    }
    for (int i = 0; i < a.bias_count; i++) biases.push_back(bias_of(a.biases[i], p));
    p.biases = biases.data();
    p.bias_count = a.bias_count;
    p.scale = a.scale;
    p.cap = a.softcap;
    p.geometry = geometry;
    if (asks_for(a, NA_LOW_RANK_MATRIX)) p.geometry.few = 0;  // rows.h multiplies by vectors
    p.head_pitch = (p.head_dim + geometry.head_step - 1) / geometry.head_step * geometry.head_step;
    p.value_pitch = (p.value_dim + geometry.value_step - 1) / geometry.value_step * geometry.value_step;
    p.element_bytes = geometry.parts > 0 ? 2 * geometry.parts : 4;
    const bool on_vectors = asks_for(a, NA_LOW_RANK_VECTOR) || obstacle(p);
    p.factor_pitch = on_vectors ? 0 : static_cast<int>(factor_columns(p));
    // A sparse plan may turn out to be complete, which nobody knows yet: there has to be room for both walks.
    make_plans(a);
    for (int i = 0; i < a.mask_count; i++) {
      if (a.masks[i].kind == NA_MASK_PLAN) p.sparse = a.masks[i].plan;
    }
    p.estimate = p.sparse && p.sparse->estimate;
    p.means = p.estimate || (p.sparse && p.sparse->levels != 0);
    p.pooled_k = a.pooled_k;
    p.pooled_v = a.pooled_v;
    if (p.sparse) make_plans(a);
  }

  // What is left of a sparse plan that lists all blocks is its causality.
  void forget_sparse(const na_attention& a) {
    problem.sparse = nullptr;
    problem.estimate = problem.means = false;
    make_plans(a);
  }

 private:
  static Rows int8_rows(const Problem& p, int64_t columns) {
    Rows rows = {};
    rows.head = columns + NA_UNIT_BYTES;
    rows.token[0] = p.kv_heads * rows.head;
    return rows;
  }

  void make_plans(const na_attention& a) {
    Problem& p = problem;
    bool grid = false;
    int64_t settings = 1;
    for (int i = 0; i < a.mask_count; i++) {
      grid |= a.masks[i].kind == NA_MASK_NEIGHBORHOOD;
      if (a.masks[i].kind == NA_MASK_NEIGHBORHOOD) settings = std::max<int64_t>(settings, a.masks[i].settings_count);
    }
    if (!grid && collapses(p.k, p.key_extent, p.key_axes) && collapses(p.v, p.key_extent, p.key_axes)) {
      p.k.token[0] = p.k.token[p.key_axes - 1];
      p.v.token[0] = p.v.token[p.key_axes - 1];
      p.key_axes = 1;
      p.key_extent[0] = p.keys;
    }
    plans.resize(settings);
    constraints.resize(settings);
    terms.resize(settings);
    for (int64_t head = 0; head < settings; head++) {
      make_plan(a, head, grid, plans[head], constraints[head], terms[head]);
      plans[head].kv_heads = 1;
      plans[head].heads = settings > 1 ? 1 : static_cast<int>(p.group);
      p.constraints = std::max(p.constraints, plans[head].constraint_count);
    }
  }

  static const na_neighborhood& setting(const na_mask& mask, int64_t head) {
    return mask.settings[mask.settings_count > 1 ? head : 0];
  }

  void make_plan(const na_attention& a, int64_t head, bool grid, TilePlan& plan, std::vector<Constraint>& all,
                 std::vector<Term>& terms) {
    const Problem& p = problem;
    plan = {};
    all.clear();
    terms.clear();
    plan.axes = grid && !p.sparse ? p.query_axes : 1;
    std::fill(plan.dilation, plan.dilation + kMaxAxes, 1);
    std::fill(plan.primary, plan.primary + kMaxAxes, -1);

    // The first neighborhood bounds the walk on every axis; without one, windows do where positions are an axis. A
    // sparse plan says by itself what is walked.
    const na_neighborhood* first = nullptr;
    for (int i = 0; i < a.mask_count && !first && !p.sparse; i++) {
      if (a.masks[i].kind == NA_MASK_NEIGHBORHOOD) first = &setting(a.masks[i], head);
    }
    if (first) {
      for (int axis = 0; axis < p.key_axes; axis++) {
        plan.dilation[axis] = first->dilation[axis];
        plan.primary[axis] = static_cast<int>(all.size());
        all.push_back({axis, first->wrap[axis] != 0, first->dilation[axis]});
      }
    } else if (a.mask_count > 0 && p.key_axes == 1 && !p.sparse) {
      plan.primary[0] = 0;
      all.push_back({0, false, 1});
    }
    plan.primaries = static_cast<int>(all.size());

    for (int i = 0; i < a.mask_count; i++) {
      const na_mask& mask = a.masks[i];
      Term term = {};
      if (mask.kind == NA_MASK_PLAN && !mask.plan->causal) continue;
      if (mask.kind != NA_MASK_NEIGHBORHOOD) {
        const bool causal = mask.kind == NA_MASK_PLAN;
        const int axis = p.key_axes == 1 ? 0 : -1;
        term.constraint = constraint_for(all, {axis, false, 1}, false);
        term.left = causal ? -1 : mask.left;
        term.right = causal ? 0 : mask.right;
        terms.push_back(term);
        continue;
      }
      const na_neighborhood& s = setting(mask, head);
      for (int axis = 0; axis < p.key_axes; axis++) {
        // A wrapping interval cannot be intersected with another and still be one: it has a constraint of its own.
        term.constraint = &s == first && s.wrap[axis]
                              ? plan.primary[axis]
                              : constraint_for(all, {axis, s.wrap[axis] != 0, s.dilation[axis]}, s.wrap[axis] != 0);
        term.neighborhood = true;
        term.window = s.window[axis];
        term.stride = s.stride[axis];
        term.causal = s.causal[axis] != 0;
        terms.push_back(term);
      }
    }
    plan.constraints = all.data();
    plan.constraint_count = static_cast<int>(all.size());
    plan.terms = terms.data();
    plan.term_count = static_cast<int>(terms.size());
  }

  static int constraint_for(std::vector<Constraint>& all, Constraint wanted, bool own) {
    for (size_t i = 0; i < all.size() && !own; i++) {
      if (all[i].axis == wanted.axis && all[i].dilation == wanted.dilation && !all[i].wrap) return static_cast<int>(i);
    }
    all.push_back(wanted);
    return static_cast<int>(all.size()) - 1;
  }
};

// What a plan's boxes follow along an axis: the tokens of a dilation group, the neighborhood's window (0: none) and
// stride there, and whether every query sees all of the axis.
struct Along {
  int64_t length = 0, window = 0, stride = 1;
  bool whole = true;
};

Along along(const Problem& problem, const TilePlan& plan, const Term* terms, int axis) {
  Along along;
  along.length = (problem.query_extent[axis] + plan.dilation[axis] - 1) / plan.dilation[axis];
  for (int t = 0; t < plan.term_count; t++) {
    if (terms[t].constraint != plan.primary[axis] || !terms[t].neighborhood) continue;
    along.window = terms[t].window;
    along.stride = std::min(terms[t].stride, along.length);
    along.whole = along.window >= along.length && !terms[t].causal;
  }
  return along;
}

// The box of a block of at most `lanes` tokens: whole strides, since those share their windows, and the axis grown
// whose windows it widens least.
void choose_block(const Problem& problem, TilePlan& plan, const Term* terms, int64_t lanes) {
  Along axis[kMaxAxes];
  int64_t tokens = 1;
  for (int a = 0; a < plan.axes; a++) {
    axis[a] = along(problem, plan, terms, a);
    tokens *= plan.block[a] = axis[a].stride;
  }
  for (int a = 0; a < plan.axes && tokens > lanes; a++) {
    tokens /= plan.block[a];
    plan.block[a] = std::max<int64_t>(1, std::min(plan.block[a], lanes / tokens));
    tokens *= plan.block[a];
  }
  for (;;) {
    int best = -1;
    double least = 0;
    for (int a = 0; a < plan.axes; a++) {
      const int64_t grown = std::min(2 * plan.block[a], axis[a].length);
      if (grown == plan.block[a] || tokens / plan.block[a] * grown > lanes) continue;
      const int64_t window = axis[a].window;
      const double widening = static_cast<double>(window + grown) / static_cast<double>(window + plan.block[a]) /
                              (static_cast<double>(grown) / static_cast<double>(plan.block[a]));
      if (best < 0 || widening <= least) {
        best = a;
        least = widening;
      }
    }
    if (best < 0) break;
    tokens /= plan.block[best];
    plan.block[best] = std::min(2 * plan.block[best], axis[best].length);
    tokens *= plan.block[best];
  }
  // What is left of the lanes goes to the innermost axis that has room, but never to a part of one more stride.
  for (int a = plan.axes - 1; a >= 0; a--) {
    const int64_t stride = axis[a].stride, room = std::min(axis[a].length, lanes / (tokens / plan.block[a]));
    const int64_t most = room == axis[a].length ? room : room < stride ? room : room / stride * stride;
    tokens = tokens / plan.block[a] * most;
    plan.block[a] = most;
  }
}

// Boxes of blocks become the tile, for all of which keys are loaded once. First come those that see the same keys,
// within a stride and along axes that every window spans; then a row of them along one axis after the other, so that
// the tile sees little that each of its blocks does not. But never along the innermost axis: keys that lie side by side
// there are visited together, so that what one block sees would be visited by its neighbours too.
void stack_blocks(const Problem& problem, TilePlan& plan, const Term* terms, int64_t lanes) {
  int64_t tokens = 1;
  for (int a = 0; a < plan.axes; a++) tokens *= plan.box[a] = plan.block[a];
  const auto grow = [&](int a, int64_t unit, int64_t most) {
    // As many units as there is room for, or fewer where the axis then falls into as many parts of about equal length.
    const int64_t units = (most + unit - 1) / unit, room = std::max<int64_t>(1, lanes * plan.box[a] / tokens / unit);
    const int64_t parts = (units + room - 1) / room, each = std::min(most, (units + parts - 1) / parts * unit);
    tokens = tokens / plan.box[a] * each;
    plan.box[a] = each;
  };
  for (int a = plan.axes - 1; a >= 0; a--) {
    const int64_t stride = along(problem, plan, terms, a).stride;
    if (plan.box[a] < stride) grow(a, stride % plan.box[a] == 0 ? plan.box[a] : 1, stride);
  }
  for (int a = plan.axes - 1; a >= 0; a--) {
    const Along axis = along(problem, plan, terms, a);
    if (axis.whole) grow(a, plan.box[a], axis.length);
  }
  for (int a = 0; a < std::max(1, plan.axes - 1); a++) {
    const Along axis = along(problem, plan, terms, a);
    if (!axis.whole) grow(a, plan.box[a], axis.length);
  }
}

// What queries have summed that see blocks of their own (Gathered): those of a run of rows of a plan, in as much memory
// as leaves a block of keys enough queries to be multiplied by together.
constexpr int64_t kRunBytes = 4 << 20;
// Of query and block that it sees: how many a run has on average.
constexpr int64_t kRunPairs = 1 << 20;

int64_t sum_bytes(const Problem& problem) { return (row_pitch(problem) + 2) * int64_t{sizeof(float)}; }

// Of as many heads as a tile may have.
int64_t run_queries(const Problem& problem, int64_t heads) {
  const int64_t tile = problem.sparse->query_tile, fit = kRunBytes / (heads * sum_bytes(problem)) / tile * tile;
  return std::min(std::max(fit, tile), (problem.queries + tile - 1) / tile * tile);
}

int64_t most_run_bytes(const Problem& problem) {
  if (!problem.sparse || !problem.sparse->bitmaps) return 0;
  constexpr int64_t padding = 3 * 64;  // of an arena
  return std::max(kRunBytes, problem.sparse->query_tile * problem.group * sum_bytes(problem)) + padding;
}

class AttentionJob final : public Job {
 public:
  AttentionJob(const na_attention& attention, Isa isa, int threads)
      : attention_(attention),
        description_(attention, geometry_of(isa, attention.q->dtype)),
        run_(run_of(isa)),
        threads_(threads) {}

  int64_t prepare() override {
    const Problem& p = description_.problem;
    if (p.batch == 0 || p.queries == 0) return 0;
    size_tiles();
    if (attention_.cu_q) {
      list_ragged();
      return static_cast<int64_t>(list_.size());
    }
    first_task_.push_back(0);
    for (const TilePlan& plan : description_.plans) {
      first_task_.push_back(first_task_.back() + tile_count(plan, extent(plan)) * p.batch * units(plan));
    }
    if (key_major_) {
      size_runs();
      return p.batch * units(description_.plans[0]) * ((p.queries + run_queries_ - 1) / run_queries_);
    }
    const int64_t tiles = first_task_.back();
    size_parts(tiles * visible_keys(p.keys));
    if (parts_of(p.keys) > 1) make_room(tiles * parts_of(p.keys));
    parts_ = parts_of(p.keys);
    if (parts_ > 1) parts_left_.assign(tiles * parts_, static_cast<int32_t>(parts_));
    return tiles * parts_;
  }

  void run(int64_t task, void* scratch, const Cancel& cancel) override {
    const Problem& p = description_.problem;
    Tile tile;
    tile.cancel = &cancel;
    tile.split = {};
    tile.split.parts = 1;
    tile.gathered = nullptr;
    if (key_major_) return run_key_major(task, tile, scratch);
    int64_t unit;
    if (attention_.cu_q) {
      const Entry& entry = list_[task];
      tile.plan = &description_.plans[0];
      tile.index = entry.tile;
      tile.batch = 0;
      tile.query_origin = query_start_[entry.sequence];
      tile.queries = query_start_[entry.sequence + 1] - tile.query_origin;
      tile.key_origin = key_start_[entry.sequence];
      tile.keys = key_start_[entry.sequence + 1] - tile.key_origin;
      unit = entry.unit;
      if (entry.parts > 1) tile.split = split_at(entry.first, entry.part, entry.parts);
    } else {
      if (parts_ > 1) tile.split = split_at(task / parts_ * parts_, task % parts_, parts_);
      task /= parts_;
      size_t plan = 0;
      while (task >= first_task_[plan + 1]) plan++;
      tile.plan = &description_.plans[plan];
      const int64_t per_tile = p.batch * units(*tile.plan), rest = task - first_task_[plan];
      // Later queries see more keys when there is causality: the last tile goes first.
      tile.index = tile_count(*tile.plan, extent(*tile.plan)) - 1 - rest / per_tile;
      tile.batch = rest % per_tile % p.batch;
      tile.query_origin = tile.key_origin = 0;
      tile.queries = p.queries;
      tile.keys = p.pages ? p.pages->lengths[tile.batch] : p.keys;
      unit = description_.plans.size() > 1 ? static_cast<int64_t>(plan) : rest % per_tile / p.batch;
    }
    if (description_.plans.size() > 1) {
      tile.kv_head = unit / p.group;
      tile.kv_heads = 1;
      tile.head = unit;
      tile.heads = 1;
    } else {
      set_heads(tile, unit);
    }
    run_tile(tile, scratch);
  }

 private:
  struct Entry {
    int32_t sequence, tile, unit, part, parts;
    int64_t first;  // part of the tile, of all parts
    int64_t work;
  };

  void run_tile(Tile& tile, void* scratch) const {
    Sums sums;
    begin_tile(description_.problem, tile, sums, scratch);
    if (tile.lanes > 0) run_(description_.problem, tile, sums);
  }

  // Those of a set of heads that share tiles.
  void set_heads(Tile& tile, int64_t unit) const {
    const Problem& p = description_.problem;
    const int64_t per_group = units_per_group(*tile.plan), first = unit % per_group * tile.plan->heads;
    tile.kv_head = unit / per_group * tile.plan->kv_heads;
    tile.kv_heads = static_cast<int>(std::min<int64_t>(tile.plan->kv_heads, p.kv_heads - tile.kv_head));
    tile.head = tile.kv_head * p.group + first;
    tile.heads = tile.kv_heads * static_cast<int>(std::min<int64_t>(tile.plan->heads, p.group - first));
  }

  // One run of queries, by the blocks of keys that they see. Their sums lie behind the scratch memory of tiles.
  void run_key_major(int64_t task, Tile& tile, void* scratch) const {
    const Problem& p = description_.problem;
    const na_plan& sparse = *p.sparse;
    const PlanReader reader(sparse);
    const int64_t sets = units(description_.plans[0]), runs = (p.queries + run_queries_ - 1) / run_queries_;
    tile.plan = &description_.plans[0];
    tile.index = 0;
    tile.batch = task / sets % p.batch;
    tile.query_origin = tile.key_origin = 0;
    tile.queries = p.queries;
    tile.keys = p.pages ? p.pages->lengths[tile.batch] : p.keys;
    set_heads(tile, task % sets);
    // The last run goes first, as the last tile does.
    Gathered to = {};
    to.first = (runs - 1 - task / (sets * p.batch)) * run_queries_;
    to.run = std::min(run_queries_, p.queries - to.first);
    Arena arena(static_cast<char*>(scratch) + scratch_bytes(p));
    to.out = arena.take<float>(tile.heads * to.run * row_pitch(p));
    to.maximum = arena.take<float>(tile.heads * to.run);
    to.total = arena.take<float>(tile.heads * to.run);
    const int64_t rows = tile.heads * to.run;
    std::fill_n(to.out, rows * row_pitch(p), 0.0f);
    std::fill_n(to.maximum, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(to.total, rows, 0.0f);

    const auto add = [&](int64_t block, const int32_t* queries, int64_t count) {
      const int64_t most = int64_t{p.geometry.lanes} * p.geometry.blocks / tile.heads;
      to.block = block;
      for (int64_t first = 0; first < count && !tile.cancel->requested(); first += most) {
        to.queries = queries + first;
        to.count = static_cast<int>(std::min(most, count - first));
        tile.gathered = &to;
        run_tile(tile, scratch);
      }
    };
    if (p.extra > 0 || p.sinks || p.means) {
      // Row by row of the plan: what is estimated is known for one.
      std::vector<int32_t> all(static_cast<size_t>(to.run));
      std::iota(all.begin(), all.end(), static_cast<int32_t>(to.first));
      for (int64_t i = 0; i < to.run; i += sparse.query_tile) {
        add(-1, all.data() + i, std::min<int64_t>(sparse.query_tile, to.run - i));
      }
    }
    const int64_t head = tile.head * sparse.heads / p.heads, batch = sparse.batch == 1 ? 0 : tile.batch;
    const int64_t end = to.first + to.run;
    const KeyMajor lists(reader, (batch * sparse.heads + head) * reader.shape.tiles(), to.first / sparse.query_tile,
                         (end + sparse.query_tile - 1) / sparse.query_tile);
    for (int64_t i = 0; i < lists.count(); i++) add(lists.block(i), lists.queries(i), lists.query_count(i));
    end_sums(tile, to);
  }

  // Out and lse, as tiles end with.
  void end_sums(const Tile& tile, const Gathered& to) const {
    const Problem& p = description_.problem;
    const int bytes = p.dtype == NA_FLOAT32 ? 4 : 2;
    for (int64_t row = 0; row < tile.heads * to.run; row++) {
      const int64_t head = tile.head + row / to.run, query = to.first + row % to.run;
      const int64_t out = p.offset(p.out, tile.batch, head, query), lse = p.offset(p.lse, tile.batch, head, query);
      const float total = to.total[row], share = total == 0 ? 0.0f : 1.0f / total;
      const float* from = to.out + row * row_pitch(p);
      for (int i = 0; i < p.value_dim; i++) {
        store_element(*attention_.out, out / bytes + i, total == 0 ? 0.0f : from[i] * share);
      }
      *reinterpret_cast<float*>(p.lse.data + lse) =
          total == 0 ? -std::numeric_limits<float>::infinity() : to.maximum[row] * kLn2 + std::log(total);
    }
  }

  const int64_t* extent(const TilePlan& plan) const {
    return plan.axes == 1 ? &description_.problem.queries : description_.problem.query_extent;
  }

  // Sets of heads that share tiles. With a plan per head, a plan has one.
  int64_t units(const TilePlan& plan) const {
    const Problem& p = description_.problem;
    if (description_.plans.size() > 1) return 1;
    return (p.kv_heads + plan.kv_heads - 1) / plan.kv_heads * units_per_group(plan);
  }

  int64_t units_per_group(const TilePlan& plan) const {
    return (description_.problem.group + plan.heads - 1) / plan.heads;
  }

  void size_parts(int64_t keys_of_all_tiles) {
    if (few_queries_ == 0) return;
    const na_plan* sparse = description_.problem.sparse;
    if (sparse && sparse->bitmaps) return;  // entries of one and of two words cannot be divided without reading them
    const Problem& p = description_.problem;
    const int64_t key_bytes =
        description_.plans[0].kv_heads * int64_t{p.head_dim + p.value_dim} * (p.dtype == NA_FLOAT32 ? 4 : 2);
    const auto quotient = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const int64_t wanted = std::min(quotient(kPartBytes, key_bytes), quotient(keys_of_all_tiles, kLeastParts));
    part_keys_ = std::max({wanted, quotient(kLeastPartBytes, key_bytes), quotient(keys_of_all_tiles, kMostParts)});
  }

  // At most so many of the keys does a window let few queries see.
  int64_t visible_keys(int64_t keys) const {
    if (description_.problem.sparse) keys = std::min(keys, most_listed_);
    for (const Term& term : description_.terms[0]) {
      if (!term.neighborhood && term.left >= 0) keys = std::min(keys, term.left + few_queries_);
    }
    return keys;
  }

  int64_t parts_of(int64_t keys) const {
    return std::max<int64_t>(1, (visible_keys(keys) + part_keys_ - 1) / part_keys_);
  }

  // For what so many parts leave for each other. Without memory for it tiles stay whole.
  void make_room(int64_t parts) {
    const TilePlan& plan = description_.plans[0];
    part_pitch_ = plan.kv_heads * plan.heads * plan.box[0] * (row_pitch(description_.problem) + 2);
    part_sums_.reset(new (std::nothrow) float[parts * part_pitch_]);
    if (!part_sums_) part_keys_ = kUnsplit;
  }

  Split split_at(int64_t first, int64_t part, int64_t parts) {
    return {static_cast<int>(part), static_cast<int>(parts), part_sums_.get() + first * part_pitch_, part_pitch_,
            &parts_left_[first]};
  }

  // Tiles as large as the geometry allows, unless threads would go without.
  void size_tiles() {
    Problem& p = description_.problem;
    int64_t longest = p.queries;
    if (attention_.cu_q) {
      read_offsets();
      longest = 1;
      for (size_t s = 0; s + 1 < query_start_.size(); s++)
        longest = std::max(longest, query_start_[s + 1] - query_start_[s]);
    }
    if (p.sparse) count_blocks();
    p.means = p.estimate || of_means_ > 0;
    if (p.sparse && listed_ == possible_ && !p.sparse->bitmaps && of_means_ == 0)
      description_.forget_sparse(attention_);
    key_major_ = by_blocks();
    for (size_t i = 0; i < description_.plans.size(); i++) {
      TilePlan& plan = description_.plans[i];
      const Term* terms = description_.terms[i].data();
      int64_t lanes = int64_t{p.geometry.lanes} * p.geometry.blocks;
      bool grid = plan.axes > 1;
      for (int t = 0; t < plan.term_count && !p.sparse; t++) grid |= terms[t].neighborhood;
      const int64_t rows = p.batch * p.heads * p.queries;
      while (lanes > p.geometry.lanes && rows / lanes < kTilesPerThread * threads_) lanes /= 2;
      const int64_t shared = shared_heads();
      if (p.sparse) size_by_rows(&lanes, &longest);
      if (!grid && description_.plans.size() == 1 && shared == p.group && p.group * longest <= p.geometry.few) {
        few_queries_ = longest;
      }
      // Heads of one group are packed into a tile when the queries do not fill it.
      if (description_.plans.size() == 1) {
        const int64_t most = few_queries_ == 0 && biases_differ_by_head() ? 1 : shared;
        plan.heads = static_cast<int>(std::min<int64_t>(most, std::max<int64_t>(1, lanes / longest)));
        while (shared < p.group && shared % plan.heads != 0) plan.heads--;
      }
      const bool one_pattern = !p.sparse || p.sparse->heads == 1;
      if (few_queries_ > 0 && one_pattern && heads_adjoin(p.k) && heads_adjoin(p.v)) {
        const int64_t most = kMostRows / (p.group * longest), units = (p.kv_heads + most - 1) / most;
        plan.kv_heads = static_cast<int>((p.kv_heads + units - 1) / units);
      }
      if (grid) {
        const int64_t tokens = lanes / plan.heads;
        choose_block(p, plan, terms, std::min<int64_t>(tokens, p.geometry.lanes));
        stack_blocks(p, plan, terms, tokens);
      } else {
        plan.block[0] = plan.box[0] = std::max<int64_t>(1, std::min(longest, lanes / plan.heads));
      }
    }
  }

  // How many blocks the plan lists, and how many there are.
  void count_blocks() {
    const na_plan& sparse = *description_.problem.sparse;
    const PlanReader reader(sparse);
    const PlanShape& shape = reader.shape;
    rows_ = plan_rows(sparse);
    for (int64_t row = 0; row < rows_; row++) {
      const int64_t end = reader.listed_end(row), words = end - reader.begin(row);
      listed_ += words;
      possible_ += shape.visible_blocks(row % shape.tiles());
      const int64_t pooled = sparse.estimate ? shape.blocks() : 0;
      int64_t at = reader.begin(row), keys = words * shape.key_block + pooled;
      for (PlanEntry entry; sparse.levels != 0 && reader.next_means(at, end, &entry);) {
        keys -= shape.key_block - (shape.key_block >> entry.level);
        of_means_++;
      }
      most_listed_ = std::max(most_listed_, keys);
      at = reader.begin(row);
      for (PlanEntry entry; sparse.bitmaps && reader.next(at, end, &entry);) listed_ -= entry.bitmap != nullptr;
    }
  }

  // As many queries as their sums and lists of them have room for, or fewer where threads would go without.
  void size_runs() {
    const Problem& p = description_.problem;
    const int64_t tile = p.sparse->query_tile, all = p.batch * units(description_.plans[0]) * p.queries;
    const auto tiles = [&](int64_t queries) { return std::max<int64_t>(1, queries / tile) * tile; };
    const auto blocks = static_cast<int64_t>(seen_ * static_cast<double>(listed_) / static_cast<double>(rows_)) + 1;
    const int64_t fit = std::min(run_queries(p, description_.plans[0].heads), tiles(kRunPairs / blocks));
    const int64_t least = std::min(tile * kLeastRunTiles, tiles(all / threads_));
    run_queries_ = std::min(fit, std::max(tiles(all / (kTilesPerThread * threads_)), least));
  }

  // Whether a sparse plan is walked by blocks of keys.
  bool by_blocks() {
    const Problem& p = description_.problem;
    if (!p.sparse || !p.sparse->bitmaps || of_means_ > 0 || description_.plans.size() > 1) return false;
    if (p.queries <= p.sparse->query_tile) return false;
    seen_ = seen_share(*p.sparse);
    return seen_ * (p.sparse->key_block + kGatheringKeys) < p.sparse->key_block;
  }

  // Query heads of a key head that may be in one tile: those of one pattern of a sparse plan, or all.
  int64_t shared_heads() const {
    const Problem& p = description_.problem;
    return p.sparse ? std::max<int64_t>(1, std::min(p.group, p.heads / p.sparse->heads)) : p.group;
  }

  // Of a sparse plan a tile has the queries of one row, or as many rows as fit where there are nearly all blocks; what
  // is estimated is known for one row.
  void size_by_rows(int64_t* lanes, int64_t* longest) const {
    const Problem& p = description_.problem;
    const int64_t tile = p.sparse->query_tile;
    *longest = p.queries;
    if (!p.means && !key_major_ && static_cast<double>(listed_) >= kBreakEven * static_cast<double>(possible_)) {
      *lanes = std::max<int64_t>(1, *lanes / tile) * tile;
    } else {
      *lanes = int64_t{p.geometry.lanes} * p.geometry.blocks;
      *longest = std::min(p.queries, tile);
    }
  }

  // Whether query heads see different factors of a key, or some have a bias that others lack: lanes of a tile, but in
  // rows.h, see the same.
  bool biases_differ_by_head() const {
    const auto differs = [](const Bias& bias) {
      return bias.places || (bias.kind == NA_BIAS_LOW_RANK && bias.k.head != 0);
    };
    return std::any_of(description_.biases.begin(), description_.biases.end(), differs);
  }

  // Whether all heads of a key lie before the next key.
  bool heads_adjoin(const Rows& rows) const {
    const Problem& p = description_.problem;
    return rows.head >= 0 && rows.head * p.kv_heads <= rows.token[p.key_axes - 1];
  }

  // Offsets are not checked at call time: what they say is bent to be ascending and within the tensors.
  void read_offsets() {
    const auto read = [](const na_tensor& offsets, int64_t most, std::vector<int64_t>& starts) {
      int64_t last = 0;
      starts.clear();
      for (int64_t i = 0; i < offsets.shape[0]; i++) {
        const int64_t given = static_cast<const int32_t*>(offsets.data)[i * offsets.stride[0]];
        last = std::min(most, std::max(last, given));
        starts.push_back(last);
      }
    };
    read(*attention_.cu_q, description_.problem.queries, query_start_);
    read(*attention_.cu_k, description_.problem.keys, key_start_);
    // Rows before the first sequence and after the last belong to none and see nothing.
    query_start_.insert(query_start_.begin(), 0);
    query_start_.push_back(description_.problem.queries);
    key_start_.insert(key_start_.begin(), key_start_.front());
    key_start_.push_back(key_start_.back());
  }

  void list_ragged() {
    const TilePlan& plan = description_.plans[0];
    const int64_t unit_count = units(plan);
    int64_t all_keys = 0;
    for (size_t s = 0; s + 1 < query_start_.size(); s++) {
      if (query_start_[s] < query_start_[s + 1]) all_keys += visible_keys(key_start_[s + 1] - key_start_[s]);
    }
    size_parts(all_keys * unit_count);
    int64_t all_parts = 0;
    for (size_t s = 0; s + 1 < query_start_.size(); s++) {
      const int64_t queries = query_start_[s + 1] - query_start_[s];
      const int64_t parts = parts_of(key_start_[s + 1] - key_start_[s]);
      if (parts > 1) all_parts += tile_count(plan, &queries) * unit_count * parts;
    }
    if (all_parts > 0) make_room(all_parts);
    for (size_t s = 0; s + 1 < query_start_.size(); s++) {
      const int64_t queries = query_start_[s + 1] - query_start_[s], keys = key_start_[s + 1] - key_start_[s];
      const int64_t tiles = tile_count(plan, &queries), parts = parts_of(keys);
      for (int64_t tile = 0; tile < tiles; tile++) {
        for (int64_t unit = 0; unit < unit_count; unit++) {
          // A later tile sees at least as much as an earlier one under causality, and costs the same without.
          Entry entry = {};
          entry.sequence = static_cast<int32_t>(s);
          entry.tile = static_cast<int32_t>(tile);
          entry.unit = static_cast<int32_t>(unit);
          entry.parts = static_cast<int32_t>(parts);
          entry.work = (keys - queries + (tile + 1) * plan.box[0]) / parts;
          entry.first = static_cast<int64_t>(parts_left_.size());
          for (; entry.part < parts; entry.part++) list_.push_back(entry);
          if (parts > 1) parts_left_.insert(parts_left_.end(), parts, entry.parts);
        }
      }
    }
    std::stable_sort(list_.begin(), list_.end(), [](const Entry& a, const Entry& b) { return a.work > b.work; });
  }

  const na_attention& attention_;
  Description description_;
  const Run run_;
  const int threads_;
  bool key_major_ = false;           // a sparse plan is walked by blocks of keys
  int64_t run_queries_ = 0;          // then, in a task
  double seen_ = 1;                  // then, of the queries of a row of the plan and a block that it lists
  std::vector<int64_t> first_task_;  // of each plan
  std::vector<int64_t> query_start_, key_start_;
  std::vector<Entry> list_;
  int64_t few_queries_ = 0;  // of the longest sequence, where tiles are those of rows.h
  int64_t parts_ = 1;        // of each tile; ragged: see list_
  int64_t part_keys_ = kUnsplit;
  std::vector<int32_t> parts_left_;
  std::unique_ptr<float[]> part_sums_;
  int64_t part_pitch_ = 0;
  int64_t listed_ = 0, possible_ = 0;  // blocks of a sparse plan
  int64_t rows_ = 0, of_means_ = 0;    // of it, and how many of the listed blocks count by means
  int64_t most_listed_ = 0;            // keys in the longest row of a sparse plan
};

}  // namespace

Status check_attention(const na_attention& attention, Isa isa, size_t* scratch) {
  const Description description(attention, geometry_of(isa, attention.q->dtype));
  *scratch = scratch_bytes(description.problem) + static_cast<size_t>(most_run_bytes(description.problem));
  for (int32_t i = 0; i < attention.bias_count; i++) {
    if (attention.biases[i].path != NA_LOW_RANK_MATRIX) continue;
    const char* const reason = asks_for(attention, NA_LOW_RANK_VECTOR) ? "is that of all biases of low rank or of none"
                                                                       : obstacle(description.problem);
    if (!reason) continue;
    return error(NA_ERR_OPTION, "bias %d: lowRankBias: path 'matrix' %s; give path 'vector' or 'auto'", i, reason);
  }
  return {};
}

std::unique_ptr<Job> attention_job(const na_attention& attention, Isa isa, int threads) {
  return std::make_unique<AttentionJob>(attention, isa, threads);
}

}  // namespace na::cpu
