#include "cuda/attention.h"

#include <algorithm>
#include <climits>
#include <optional>
#include <vector>

#include "attention/attention.h"
#include "attention/plan.h"
#include "copy/copy.h"
#include "core/ceil_div.h"
#include "core/dtype.h"
#include "cuda/bias.h"
#include "cuda/grid.h"
#include "cuda/means.h"
#include "cuda/plan.h"
#include "tile/pages.h"

namespace na::cuda {
namespace {

constexpr int64_t kMostHeadDim = 256;
constexpr int64_t kWorkspaceAlignment = 256;

// A tile of wgmma has 64 rows or more, all of one head; fewer queries are better off where heads are packed together.
constexpr int64_t kLeastHopperQueries = 64;

// Blocks of a multiprocessor that run at the same time.
constexpr int64_t kResidentSm80 = 2, kResidentSm90 = 1;

// Partial results may take that much memory, and there may be that many.
constexpr int64_t kMostPartBytes = int64_t{1} << 28, kMostParts = 128;

// Runs of queries that are walked by keys have so many rows of tiles at most, and so many tiles of queries at least;
// marks of all of them may take that much memory.
constexpr int64_t kRunRows = 2048, kLeastRunTiles = 4, kMostMarkBytes = int64_t{1} << 27;

// A copy of a tensor whose token axes have no common stride.
struct Dense {
  const na_tensor* view;
  void* data;
};

struct Plan {
  Problem keys{};   // of the call
  Grids grids;      // to run `keys` with, one after the other; none: as it is
  Problem extra{};  // its `extra` keys, which all queries see; keys is 0 if there are none
  Element element{};
  bool tf32 = false, hopper = false, extra_hopper = false;
  int32_t slots = 0;  // of partial results; 0: none
  Dense inputs[5];
  int input_count = 0;
  Dense out{}, lse{};  // if they are made elsewhere first
  const na_plan* sparse = nullptr;
  Unfolded unfolded{};               // what is made of the plan first
  Sights sights{};                   // and what decides which runs are walked by keys, if any may be
  std::vector<Level> levels;         // of the plan
  std::optional<Estimate> estimate;  // of what the plan does not list
  Grids cut;                         // by which `unfolded` is cut, of all heads; none: it is not
  uint32_t* cut_bitmaps = nullptr;
  int64_t workspace_bytes = 0;
};

// One stride over all token axes. False: there is none.
bool token_stride(const na_tensor& tensor, int64_t* stride) {
  int64_t length = 1;
  *stride = 0;
  for (int axis = tensor.rank - 3; axis > 0; axis--) {
    if (tensor.shape[axis] == 1) continue;
    if (length == 1) {
      *stride = tensor.stride[axis];
    } else if (tensor.stride[axis] != length * *stride) {
      return false;
    }
    length *= tensor.shape[axis];
  }
  return true;
}

int64_t token_count(const na_tensor& tensor) {
  int64_t count = 1;
  for (int axis = 1; axis < tensor.rank - 2; axis++) count *= tensor.shape[axis];
  return count;
}

Status check_call(const na_attention& call) {
  for (const na_tensor* tensor : {call.q, call.v}) {
    const int64_t head_dim = tensor->shape[tensor->rank - 1];
    if (head_dim > kMostHeadDim) {
      return error(NA_ERR_SHAPE, "headDim of %s is %lld; CUDA takes 1 to %lld, device 'cpu' more",
                   tensor == call.q ? "q" : "v", static_cast<long long>(head_dim),
                   static_cast<long long>(kMostHeadDim));
    }
  }
  NA_TRY(check_plan(call));
  NA_TRY(check_grid(call));
  return check_biases(call);
}

class Planner {
 public:
  Planner(const Device& device, const na_attention& call) : device_(device), call_(call) {}

  Status make(Plan* plan) {
    plan_ = plan;
    NA_TRY(check_call(call_));
    const na_tensor &q = *call_.q, &k = *call_.k;
    const int64_t heads = q.shape[q.rank - 2], rows = q.shape[0] * token_count(q) * heads;
    if (rows == 0) return {};
    if (rows > INT32_MAX) {
      return error(NA_ERR_SHAPE, "q has %lld rows (batch times tokens times heads); CUDA takes fewer than 2^31",
                   static_cast<long long>(rows));
    }
    switch (q.dtype) {
      case NA_FLOAT32: plan->element = Element::kFloat32; break;
      case NA_FLOAT16: plan->element = Element::kFloat16; break;
      default: plan->element = Element::kBfloat16;
    }
    plan->tf32 = call_.tf32 != 0;

    Problem& p = plan->keys;
    p.batch = static_cast<int32_t>(q.shape[0]);
    p.heads = static_cast<int32_t>(heads);
    p.kv_heads = static_cast<int32_t>(k.shape[k.rank - 2]);
    p.queries = static_cast<int32_t>(token_count(q));
    p.keys = static_cast<int32_t>(token_count(k));
    p.head_dim = static_cast<int32_t>(q.shape[q.rank - 1]);
    p.value_dim = static_cast<int32_t>(call_.v->shape[call_.v->rank - 1]);
    p.scale = call_.scale;
    p.softcap = call_.softcap;
    p.lse = static_cast<float*>(lse());
    p.left = p.right = kUnlimited;
    const na_plan* const sparse = plan_of(call_);
    NA_TRY(find_grids(call_, sparse ? &plan->cut : &plan->grids));
    const bool on_grid = plan->grids.count > 0;
    if (!on_grid) {
      p.q = input(q, &p.q_strides);
      p.k = input(k, &p.k_strides);
      p.v = input(*call_.v, &p.v_strides);
      p.out = output(*call_.out, &p.out_strides);
    } else {  // whose axes have strides of their own
      p.q = in_place(q, &p.q_strides);
      p.k = in_place(k, &p.k_strides);
      p.v = in_place(*call_.v, &p.v_strides);
      p.out = in_place(*call_.out, &p.out_strides);
    }

    const bool extra = call_.extra_k && token_count(*call_.extra_k) > 0;
    if (extra) {
      plan->extra = p;
      plan->extra.parts = 1;
      if (on_grid) plan->extra.q = input(q, &plan->extra.q_strides);
      plan->extra.keys = static_cast<int32_t>(token_count(*call_.extra_k));
      plan->extra.k = input(*call_.extra_k, &plan->extra.k_strides);
      plan->extra.v = input(*call_.extra_v, &plan->extra.v_strides);
      plan->extra_hopper = hopper(plan->extra);
    }
    add_masks(&p);
    if (sparse) take_plan(*sparse, &p);
    add_biases(call_, &p);
    for (int32_t i = 0; i < call_.bias_count; i++) {
      if (call_.biases[i].places) p.biases[i].places = static_cast<int64_t*>(take(heads * int64_t{sizeof(int64_t)}));
    }
    add_sequences(&p);
    add_pages(&p);
    if (sparse) take_means();
    if (call_.sinks) {
      p.sinks = static_cast<const float*>(call_.sinks->data);
      p.sink_stride = call_.sinks->stride[0];
    }
    if (on_grid) {
      // A window that hides nothing would have every tile masked.
      for (int32_t* side : {&p.left, &p.right}) {
        if (*side >= p.keys - 1) *side = kUnlimited;
      }
    }
    plan->hopper = on_grid ? hopper_grids(p) : hopper(p);
    const int64_t parts = on_grid        ? plan_grids(p)
                          : plan->sparse ? plan_parts(p, listed_keys(*plan->sparse))
                                         : choose_parts(p, plan->hopper);
    if (sparse && parts == 1 && may_go_by_keys(*sparse)) add_runs(*sparse, &p);
    if (parts > 1 || extra || !plan->levels.empty() || plan->estimate) {
      add_parts(static_cast<int32_t>(parts), extra);
      if (on_grid) p.out = output(*call_.out, &p.out_strides);  // what combine() writes
    }
    return {};
  }

 private:
  void* take(int64_t bytes) {
    void* const at = reinterpret_cast<void*>(reinterpret_cast<intptr_t>(call_.workspace) + plan_->workspace_bytes);
    plan_->workspace_bytes += ceil_div(bytes, kWorkspaceAlignment) * kWorkspaceAlignment;
    return at;
  }

  void* take_dense(const na_tensor& view, Strides* strides) {
    const int64_t head = view.shape[view.rank - 1], token = head * view.shape[view.rank - 2];
    *strides = {token * token_count(view), token, head};
    return take(element_count(view) * dtype_size(view.dtype));
  }

  static bool strides_of(const na_tensor& view, Strides* strides) {
    strides->batch = view.stride[0];
    strides->head = view.stride[view.rank - 2];
    return token_stride(view, &strides->token);
  }

  static void* in_place(const na_tensor& view, Strides* strides) {
    *strides = {view.stride[0], 0, view.stride[view.rank - 2]};
    return view.data;
  }

  const void* input(const na_tensor& view, Strides* strides) {
    if (strides_of(view, strides)) return view.data;
    void* const data = take_dense(view, strides);
    plan_->inputs[plan_->input_count++] = {&view, data};
    return data;
  }

  void* output(const na_tensor& view, Strides* strides) {
    if (strides_of(view, strides)) return view.data;
    plan_->out = {&view, take_dense(view, strides)};
    return plan_->out.data;
  }

  void* lse() {
    const na_tensor& view = *call_.lse;
    if (is_dense(view)) return view.data;
    plan_->lse = {&view, take(element_count(view) * dtype_size(view.dtype))};
    return plan_->lse.data;
  }

  // Windows are intersected: one is left.
  void add_masks(Problem* p) const {
    const auto narrow = [](int32_t* side, int64_t reach) {
      if (reach >= 0) *side = static_cast<int32_t>(std::min<int64_t>(*side, reach));
    };
    for (int32_t i = 0; i < call_.mask_count; i++) {
      if (call_.masks[i].kind != NA_MASK_WINDOW) continue;
      narrow(&p->left, call_.masks[i].left);
      narrow(&p->right, call_.masks[i].right);
    }
  }

  void add_sequences(Problem* p) const {
    if (!call_.cu_q) return;
    p->cu_q = static_cast<const int32_t*>(call_.cu_q->data);
    p->cu_k = static_cast<const int32_t*>(call_.cu_k->data);
    p->cu_q_stride = call_.cu_q->stride[0];
    p->cu_k_stride = call_.cu_k->stride[0];
    p->sequences = static_cast<int32_t>(call_.cu_q->shape[0] - 1);
  }

  void add_pages(Problem* p) const {
    if (!call_.pages || !call_.pages->device_tables) return;  // the latter where a call is but checked
    const na_pages& pages = *call_.pages;
    p->pages = pages_of(call_.pages, pages.value_offset);
    const auto strides = [&](int64_t columns) -> Strides {
      const int64_t row = page_row_bytes(call_.k->dtype, pages.int8 != 0, columns);
      return {0, p->kv_heads * row, row};
    };
    p->k_strides = strides(p->head_dim);
    p->v_strides = strides(p->value_dim);
  }

  // Of a sequence; of packed ones the average, since their lengths are not known to the host.
  static int64_t typical(const Problem& p, int64_t tokens) {
    return std::max<int64_t>(p.cu_q && p.sequences > 0 ? ceil_div(tokens, p.sequences) : tokens, 1);
  }

  bool hopper(const Problem& p) const {
    return device_.major == 9 && !is_sparse(p) && !is_paged(p) && plan_->element != Element::kFloat32 && p.keys > 0 &&
           typical(p, p.queries) >= kLeastHopperQueries && attention_sm90_takes(p, plan_->element);
  }

  TouchedPages touched() const {
    if (!call_.touched) return {};
    return {static_cast<uint8_t*>(call_.touched->data), call_.touched->shape[1], divisor_of(call_.pages->page_tokens)};
  }

  void take_plan(const na_plan& sparse, Problem* p) {
    plan_->sparse = &sparse;
    plan_->unfolded = {static_cast<PlanRow*>(take(plan_rows(sparse) * int64_t{sizeof(PlanRow)})),
                       static_cast<PlanBlock*>(take(sparse.entries->shape[0] * int64_t{sizeof(PlanBlock)})),
                       static_cast<int32_t>(sparse.batch),
                       0,
                       {},
                       touched()};
    add_plan(sparse, p);
    p->plan.rows = plan_->unfolded.rows;
    p->plan.blocks = plan_->unfolded.blocks;
    if (plan_->cut.count == 0) return;
    plan_->cut_bitmaps = static_cast<uint32_t*>(take(cut_words(sparse) * int64_t{sizeof(uint32_t)}));
    p->plan.bitmaps = plan_->cut_bitmaps;
  }

  // With neighborhoods, bitmaps are those that they make; what few rows list is in parts instead.
  bool may_go_by_keys(const na_plan& sparse) const {
    return sparse.bitmaps && sparse.queries > sparse.query_tile && sparse.keys > 0 && plan_->cut.count == 0;
  }

  // Runs are as long as there is room for, unless there would be too few for the device.
  void add_runs(const na_plan& sparse, Problem* p) {
    const int64_t places = device_.multiprocessors * kResidentSm80;
    const int64_t tile_rows = key_major_tiling(*p, 1).packed * sparse.query_tile;
    int64_t tiles = std::clamp<int64_t>(kRunRows / tile_rows, 1, kMostRunTiles);
    const auto items = [&](int64_t n) { return int64_t{key_major_tiling(*p, static_cast<int32_t>(n)).items}; };
    while (tiles > kLeastRunTiles && items(tiles) < places) tiles = std::max(tiles / 2, kLeastRunTiles);
    const int64_t mark_bytes = sight_marks(sparse, static_cast<int32_t>(tiles)) * int64_t{sizeof(uint32_t)};
    if (mark_bytes > kMostMarkBytes) return;
    KeyMajor& to = p->plan.by_keys;
    to.run_tiles = static_cast<int32_t>(tiles);
    to.runs = key_major_tiling(*p, to.run_tiles).runs;
    to.places = static_cast<int32_t>(std::min(items(tiles), places));
    const TileShape tile = tile_of(*p, false);
    to.tile_rows = tile.rows;
    to.tile_keys = tile.keys;
    const KeyMajorTiling by_keys = key_major_tiling(*p, to.run_tiles);
    const PlanTiling by_rows = plan_tiling(*p, tile.rows);
    to.packed = by_keys.packed;
    // Rows of a tile that a query takes, and which share of the device is at work.
    const double each = double(by_rows.head_tiles) * tile.rows / by_rows.queries;
    const auto busy = [&](int64_t blocks) { return std::min(1.0, double(blocks) / places); };
    to.odds = static_cast<float>(by_keys.head_tiles / each * busy(plan_cost(*p, 0, tile).blocks) / busy(by_keys.items));
    const int64_t rows = to.places * tiles * tile_rows;
    plan_->sights = {static_cast<RowSight*>(take(plan_rows(sparse) * int64_t{sizeof(RowSight)})),
                     static_cast<uint32_t*>(take(mark_bytes)), to.run_tiles, mark_words(sparse)};
    to.sights = plan_->sights.rows;
    to.taken = static_cast<int32_t*>(take(sparse.batch * sparse.heads * to.runs * int64_t{sizeof(int32_t)}));
    to.sums = static_cast<float2*>(take(rows * int64_t{sizeof(float2)}));
    to.out = static_cast<float*>(take(rows * ceil_div(p->value_dim, 8) * 8 * int64_t{sizeof(float)}));
  }

  int64_t plan_parts(const Problem& p, int64_t keys) const {
    const PlanCost cost = plan_cost(p, keys, tile_of(p, false));
    return best_parts(p, cost.blocks, cost.key_tiles, false);
  }

  void take_means() {
    const na_plan& sparse = *plan_->sparse;
    const Take taking = [&](int64_t bytes) { return take(bytes); };
    for (int level = 1; level < NA_LEVELS; level++) {
      if ((sparse.levels >> level & 1) == 0) continue;
      Problem& means = plan_->levels.emplace_back(make_level(call_, sparse, plan_->keys, level, taking)).problem;
      const int64_t most = std::min<int64_t>(means.keys, listed_keys(sparse) >> level);
      means.parts = static_cast<int32_t>(plan_parts(means, most));
    }
    if (!sparse.estimate) return;
    const int64_t places = device_.multiprocessors * kResidentSm80;
    Problem& means =
        plan_->estimate.emplace(make_estimate(call_, sparse, plan_->keys, plan_->levels, places, taking)).problem;
    means.parts = static_cast<int32_t>(plan_parts(means, means.keys));
  }

  static Problem on(Problem p, const Grid& grid) {
    p.grid = grid;
    return p;
  }

  // Tiles hold tokens of one dilation group.
  bool hopper_grids(const Problem& p) const {
    return std::all_of(plan_->grids.begin(), plan_->grids.end(), [&](const Grid& grid) {
      const Problem own = on(p, grid);
      int64_t tokens = 1;
      for (int a = 0; a < kMostAxes; a++) {
        tokens *= ceil_div(grid.extent[a], grid.neighborhoods[0].axes[a].dilation);
      }
      return tokens >= kLeastHopperQueries && hopper(own);
    });
  }

  TileShape tile_of(const Problem& p, bool hopper) const {
    return hopper ? attention_sm90_tile(p) : attention_sm80_tile(p, plan_->element);
  }

  // Makes the grids ready to be run, and says how many parts the keys of each are to be shared out among.
  int64_t plan_grids(const Problem& p) {
    double blocks = 0, visits = 0;
    const bool windows = p.left != kUnlimited || p.right != kUnlimited;
    for (Grid& grid : plan_->grids) {
      const GridCost cost = choose_boxes(&grid, tile_of(on(p, grid), plan_->hopper), windows);
      blocks += double(p.batch) * grid.heads * cost.query_tiles;
      visits += double(p.batch) * grid.heads * cost.visited;
    }
    return best_parts(p, static_cast<int64_t>(blocks), static_cast<int64_t>(visits / blocks), plan_->hopper);
  }

  int64_t choose_parts(const Problem& p, bool hopper) const {
    const TileShape tile = tile_of(p, hopper);
    const int64_t queries = typical(p, p.queries), group = p.heads / p.kv_heads;
    const int64_t packed = hopper || heads_apart(p) ? 1 : std::clamp<int64_t>(tile.rows / queries, 1, group);
    const int64_t tiles =
        p.cu_q ? int64_t{p.sequences} * ceil_div(queries, tile.rows / packed) : ceil_div(queries, tile.rows / packed);
    const int64_t blocks = p.batch * p.kv_heads * ceil_div(group, packed) * std::max<int64_t>(tiles, 1);
    // Keys that the rows of a tile see.
    int64_t keys = typical(p, p.keys);
    if (p.left != kUnlimited && p.right != kUnlimited) {
      keys = std::min(keys, int64_t{p.left} + p.right + std::min<int64_t>(queries, tile.rows / packed));
    }
    return best_parts(p, blocks, ceil_div(keys, tile.keys), hopper);
  }

  // How many parts of the keys a call is made of.
  //
  // Blocks work at tiles of rows, and walk through T key tiles each. With B blocks on R places (multiprocessors times
  // the blocks that one runs at a time), p parts take ceil(B p / R) rounds of ceil(T / p) key tiles, and one more for
  // beginning and end; to put parts together takes as long as two tiles, and as one more for every sixteen parts. The p
  // with the lowest sum is chosen, of several the lowest, if that saves a quarter: for less, memory is not worth
  // having. Decoding one token with 8 key heads on 132 multiprocessors, T = 128: B = 8, R = 264; one part takes 129, 32
  // parts take 4 + 1 + 4 = 9.
  int64_t best_parts(const Problem& p, int64_t blocks, int64_t key_tiles, bool hopper) const {
    const int64_t places = device_.multiprocessors * (hopper ? kResidentSm90 : kResidentSm80);
    key_tiles = std::max<int64_t>(key_tiles, 1);
    const int64_t part_bytes = int64_t{p.batch} * p.queries * p.heads * (p.value_dim + 1) * 4;
    const int64_t most = std::min({key_tiles, kMostParts, std::max<int64_t>(kMostPartBytes / part_bytes, 1)});
    const auto cost = [&](int64_t parts) {
      const int64_t together = parts > 1 ? 2 + parts / 16 : 0;
      return ceil_div(blocks * parts, places) * (ceil_div(key_tiles, parts) + 1) + together;
    };
    int64_t best = 1, best_cost = cost(1) * 3 / 4 + 1;
    for (int64_t parts = 2; parts <= most; parts++) {
      if (cost(parts) >= best_cost) continue;
      best = parts;
      best_cost = cost(parts);
    }
    return best;
  }

  void add_parts(int32_t parts, bool extra) {
    Problem& p = plan_->keys;
    p.parts = parts;
    std::vector<Problem*> all = {&p};
    for (Level& level : plan_->levels) all.push_back(&level.problem);
    if (plan_->estimate) all.push_back(&plan_->estimate->problem);
    if (extra) all.push_back(&plan_->extra);
    for (Problem* one : all) {
      one->first_slot = plan_->slots;
      plan_->slots += one->parts;
    }
    const int64_t rows = int64_t{p.batch} * p.queries * p.heads;
    auto* const out = static_cast<float*>(take(plan_->slots * rows * p.value_dim * 4));
    auto* const lse = static_cast<float*>(take(plan_->slots * rows * 4));
    for (Problem* one : all) {
      one->part_out = out;
      one->part_lse = lse;
    }
  }

  const Device& device_;
  const na_attention& call_;
  Plan* plan_ = nullptr;
};

cudaError_t copy_all(const na_tensor& source, const na_tensor& target, cudaStream_t stream) {
  const StridedCopy views(source, target);
  return copy(views, 0, views.elements(), stream);
}

cudaError_t run(const Plan& plan, const Problem& problem, bool hopper, cudaStream_t stream) {
  return hopper ? attention_sm90(problem, plan.element, stream)
                : attention_sm80(problem, plan.element, plan.tf32, stream);
}

cudaError_t run_keys(const Plan& plan, cudaStream_t stream) {
  if (plan.grids.count == 0) return run(plan, plan.keys, plan.hopper, stream);
  Problem problem = plan.keys;
  for (const Grid& grid : plan.grids) {
    problem.grid = grid;
    const cudaError_t result = run(plan, problem, plan.hopper, stream);
    if (result != cudaSuccess) return result;
  }
  return cudaSuccess;
}

}  // namespace

Status check_attention(const Device& device, const na_attention& call, int64_t* workspace_bytes) {
  Plan plan;
  NA_TRY(Planner(device, call).make(&plan));
  *workspace_bytes = plan.workspace_bytes;
  return {};
}

cudaError_t attention(const Device& device, const na_attention& call, cudaStream_t stream) {
  Plan plan;
  // All else that can be refused was refused by check_attention().
  if (!Planner(device, call).make(&plan).ok()) return cudaErrorMemoryAllocation;
  if (plan.keys.batch == 0) return cudaSuccess;  // no rows
  cudaError_t result = cudaSuccess;
  const auto then = [&](cudaError_t next) {
    result = next;
    return result == cudaSuccess;
  };
  for (int i = 0; i < plan.input_count; i++) {
    const Dense& dense = plan.inputs[i];
    if (!then(copy_all(*dense.view, dense_view(*dense.view, dense.view->dtype, dense.data), stream))) return result;
  }
  if (!then(put_places(call, plan.keys, stream))) return result;
  if (plan.sparse && !then(unfold_plan(*plan.sparse, plan.unfolded, stream))) return result;
  for (const Grid& grid : plan.cut) {
    if (!then(cut_plan(*plan.sparse, grid, plan.unfolded.rows, plan.unfolded.blocks, plan.cut_bitmaps, stream)))
      return result;
  }
  if (plan.keys.plan.by_keys.sights) {
    if (!then(see_plan(*plan.sparse, plan.unfolded, plan.sights, stream))) return result;
    if (!then(attention_by_keys(plan.keys, plan.element, stream))) return result;
  }
  if (!then(run_keys(plan, stream))) return result;
  for (const Level& level : plan.levels) {
    if (!then(attention_over_level(*plan.sparse, level, plan.element, stream))) return result;
  }
  if (plan.estimate && !then(attention_over_estimate(*plan.estimate, plan.element, stream))) return result;
  if (plan.extra.keys > 0 && !then(run(plan, plan.extra, plan.extra_hopper, stream))) return result;
  if (plan.slots > 0 && !then(combine(plan.keys, plan.element, plan.slots, stream))) return result;
  for (const Dense& dense : {plan.out, plan.lse}) {
    if (!dense.view) continue;
    if (!then(copy_all(dense_view(*dense.view, dense.view->dtype, dense.data), *dense.view, stream))) return result;
  }
  return result;
}

int64_t attention_launches(const Device& device, const na_attention& call) {
  if (element_count(*call.lse) == 0) return 0;  // no rows
  Grids grids;
  if (!find_grids(call, &grids).ok()) return 0;     // nor does attention() find them
  int64_t launches = 1 + std::max(grids.count, 1);  // combine(), and the keys
  for (const na_tensor* tensor : {call.q, call.k, call.v, call.extra_k, call.extra_v, call.out}) {
    int64_t stride;
    if (tensor && !token_stride(*tensor, &stride)) launches++;
  }
  if (!is_dense(*call.lse)) launches++;
  if (call.extra_k) launches++;
  launches += put_places_launches(call);
  if (const na_plan* const plan = plan_of(call)) {
    launches += 1 + grids.count;       // unfolded, and cut
    if (plan->bitmaps) launches += 3;  // seen, with memory cleared for that, and walked by keys
    launches += means_launches(call, *plan, device.multiprocessors * kResidentSm80);
  }
  return launches;
}

}  // namespace na::cuda
