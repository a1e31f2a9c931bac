#include "attention/plan.h"
#include "attention/sm80/dispatch.h"
#include "tile/pages.h"
#include "tile/score.h"

namespace na::cuda {
namespace {

using Run = cudaError_t (*)(const Problem&, const Launch&, bool, bool, uint32_t, cudaStream_t);

// Problems are padded to the first dimensions that hold theirs.
struct Entry {
  int head_dim, value_dim;
  Run run;
};

template <Element kElement>
constexpr Entry kHalf[] = {
    {64, 64, run_sm80<kElement, 1, 64, 64>},     {96, 96, run_sm80<kElement, 1, 96, 96>},
    {128, 128, run_sm80<kElement, 1, 128, 128>}, {192, 128, run_sm80<kElement, 1, 192, 128>},
    {192, 192, run_sm80<kElement, 1, 192, 192>}, {256, 256, run_sm80<kElement, 1, 256, 256>},
};
template <int kProducts>
constexpr Entry kFloat[] = {
    {64, 64, run_sm80<Element::kFloat32, kProducts, 64, 64>},
    {128, 128, run_sm80<Element::kFloat32, kProducts, 128, 128>},
    {256, 256, run_sm80<Element::kFloat32, kProducts, 256, 256>},
};
// Few, since each of them takes a while to compile: narrower ones are padded, and float32 is always three products.
template <Element kElement>
constexpr Entry kGrid[] = {
    {64, 64, run_sm80_grid<kElement, 64>},
    {128, 128, run_sm80_grid<kElement, 128>},
    {256, 256, run_sm80_grid<kElement, 256>},
};
template <Element kElement>
constexpr Entry kPlan[] = {
    {64, 64, run_sm80_plan<kElement, 64>},
    {128, 128, run_sm80_plan<kElement, 128>},
    {256, 256, run_sm80_plan<kElement, 256>},
};

template <Element kElement>
constexpr Entry kKeyMajor[] = {
    {64, 64, run_sm80_key_major<kElement, 64>},
    {128, 128, run_sm80_key_major<kElement, 128>},
    {256, 256, run_sm80_key_major<kElement, 256>},
};

template <Element kElement>
constexpr Entry kPaged[] = {
    {128, 128, run_sm80_paged<kElement, 128>},
    {256, 256, run_sm80_paged<kElement, 256>},
};

constexpr Entry kPagedFloat[] = {{256, 256, run_sm80_paged<Element::kFloat32, 256>}};

template <size_t kCount>
const Entry* find(const Entry (&entries)[kCount], const Problem& problem, int least_columns = 0) {
  const bool computes = computes_biases(problem);
  for (const Entry& entry : entries) {
    if (computes && !may_compute_biases(entry.head_dim, entry.value_dim)) continue;
    if (entry.head_dim < least_columns) continue;
    if (problem.head_dim <= entry.head_dim && problem.value_dim <= entry.value_dim) return &entry;
  }
  return nullptr;
}

template <Element kElement>
const Entry* find_grid(const Problem& problem) {
  return find(kGrid<kElement>, problem, computes_biases(problem) ? biased_columns_on_grid(kElement) : 0);
}

template <Element kElement>
const Entry* find_half(const Problem& problem) {
  if (is_sparse(problem)) return find(kPlan<kElement>, problem);
  if (is_paged(problem)) return find(kPaged<kElement>, problem);
  return is_grid(problem) ? find_grid<kElement>(problem) : find(kHalf<kElement>, problem);
}

const Entry* find(const Problem& problem, Element element, bool tf32) {
  switch (element) {
    case Element::kFloat16: return find_half<Element::kFloat16>(problem);
    case Element::kBfloat16: return find_half<Element::kBfloat16>(problem);
    default:
      if (is_sparse(problem)) return find(kPlan<Element::kFloat32>, problem);
      if (is_grid(problem)) return find_grid<Element::kFloat32>(problem);
      if (is_paged(problem)) return find(kPagedFloat, problem);
      // Biases are computed where there are three products.
      return tf32 && !computes_biases(problem) ? find(kFloat<1>, problem) : find(kFloat<3>, problem);
  }
}

const Entry* find_key_major(const Problem& problem, Element element) {
  switch (element) {
    case Element::kFloat16: return find(kKeyMajor<Element::kFloat16>, problem);
    case Element::kBfloat16: return find(kKeyMajor<Element::kBfloat16>, problem);
    default: return find(kKeyMajor<Element::kFloat32>, problem);
  }
}

int32_t group_of(const Problem& problem) { return problem.heads / problem.kv_heads; }

// Queries of a sequence; of packed ones the average, since their lengths are not known here.
int32_t typical_queries(const Problem& problem) {
  if (!problem.cu_q || problem.sequences == 0) return problem.queries > 0 ? problem.queries : 1;
  return problem.queries / problem.sequences + (problem.queries % problem.sequences != 0);
}

// The queries of a whole group share its keys, which are read once if all fit into one tile.
bool is_few(const Problem& problem) {
  const int columns = problem.head_dim > problem.value_dim ? problem.head_dim : problem.value_dim;
  if (computes_biases(problem) && !rows_may_compute_biases(true, columns)) return false;
  return !is_grid(problem) && !is_sparse(problem) && int64_t{typical_queries(problem)} * group_of(problem) <= 16;
}

TileShape shape_of(const Problem& problem, Element element, const Entry& entry) {
  const bool few = is_few(problem), modified = is_sparse(problem) || is_paged(problem) || modifies_scores(problem);
  return shape_of(tiling(element, entry.head_dim, entry.value_dim, few, modified, is_grid(problem)), few);
}

// The widest access that the alignment of every row allows. `axes` are the strides on a grid.
int32_t width_of(const void* data, const Strides& strides, const int64_t (&axes)[kMostAxes], const Problem& problem,
                 bool several_tokens, int32_t heads, int bytes) {
  int64_t bits = reinterpret_cast<intptr_t>(data);
  if (problem.batch > 1) bits |= strides.batch * bytes;
  if (heads > 1) bits |= strides.head * bytes;
  if (is_grid(problem)) {
    for (int a = 0; a < kMostAxes; a++) {
      if (problem.grid.extent[a] > 1) bits |= axes[a] * bytes;
    }
  } else if (several_tokens) {
    bits |= strides.token * bytes;
  }
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 2;
}

void choose_widths(const Problem& problem, Element element, Launch* launch) {
  const int bytes = element_bytes(element);
  const bool queries = problem.queries > 1;
  const bool keys = problem.keys > 1 || is_paged(problem);  // pages of means begin at any multiple of a row
  const int step = is_paged(problem) ? 1 : bytes;
  launch->q_width = width_of(problem.q, problem.q_strides, problem.grid.q, problem, queries, problem.heads, bytes);
  launch->k_width = width_of(problem.k, problem.k_strides, problem.grid.k, problem, keys, problem.kv_heads, step);
  launch->v_width = width_of(problem.v, problem.v_strides, problem.grid.v, problem, keys, problem.kv_heads, step);
  launch->out_width = problem.parts == 0 ? width_of(problem.out, problem.out_strides, problem.grid.out, problem,
                                                    queries, problem.heads, bytes)
                      : (reinterpret_cast<intptr_t>(problem.part_out) | problem.value_dim * intptr_t{4}) % 16 == 0 ? 16
                                                                                                                   : 4;
}

// Of a plan, the tiles of queries [first_tile, end_tile) alone.
cudaError_t run(const Problem& problem, Element element, bool tf32, int32_t first_tile, int32_t end_tile,
                cudaStream_t stream) {
  const Entry* entry = find(problem, element, tf32);
  if (!entry) return cudaErrorInvalidValue;
  if (problem.batch == 0 || problem.queries == 0 || problem.heads == 0) return cudaSuccess;
  const int group = group_of(problem);
  const TileShape shape = shape_of(problem, element, *entry);
  Launch launch{};
  int32_t first_slot = 0;
  if (is_grid(problem)) {
    launch.query_slots = query_tiles(problem.grid);
  } else if (is_sparse(problem)) {
    const PlanTiling of = plan_tiling(problem, shape.rows);
    launch.packed = of.packed;
    launch.head_tiles = of.head_tiles;
    const int32_t slots = std::max((1 << problem.plan.query_tile) / of.queries, 1);  // of a tile of queries
    first_slot = first_tile * slots;
    launch.query_slots = static_cast<int32_t>(std::min(int64_t{end_tile} * slots, int64_t{of.slots}));
    launch.plan_heads = of.shared;
    launch.plan_queries = of.queries;
  } else {
    const int32_t room = heads_apart(problem) ? 1 : shape.rows / typical_queries(problem);  // for heads
    launch.packed = room < 1 ? 1 : room < group ? room : group;
    launch.head_tiles = (group + launch.packed - 1) / launch.packed;
    launch.query_slots = tile_slots(problem, shape.rows / launch.packed);
  }
  choose_widths(problem, element, &launch);
  const int32_t runs = is_sparse(problem) ? problem.heads / launch.plan_heads : problem.kv_heads;  // that share keys
  const int64_t heads = is_grid(problem) ? problem.grid.heads : int64_t{launch.head_tiles} * runs;
  const int64_t rest = heads * (problem.parts > 0 ? problem.parts : 1);
  const int64_t tiles = int64_t{problem.batch} * (launch.query_slots - first_slot);
  if (rest > INT32_MAX / tiles) return cudaErrorInvalidConfiguration;
  return entry->run(problem, launch, is_few(problem), modifies_scores(problem), static_cast<uint32_t>(rest * tiles),
                    stream);
}

}  // namespace

cudaError_t attention_by_keys(const Problem& problem, Element element, cudaStream_t stream) {
  const Entry* entry = find_key_major(problem, element);
  if (!entry) return cudaErrorInvalidValue;
  const KeyMajorTiling of = key_major_tiling(problem, problem.plan.by_keys.run_tiles);
  Launch launch{};
  launch.packed = of.packed;
  launch.head_tiles = of.head_tiles;
  launch.plan_heads = of.shared;
  launch.items = of.items;
  choose_widths(problem, element, &launch);
  return entry->run(problem, launch, false, false, static_cast<uint32_t>(problem.plan.by_keys.places), stream);
}

TileShape attention_sm80_tile(const Problem& problem, Element element) {
  const Entry* entry = find(problem, element, false);
  return entry ? shape_of(problem, element, *entry) : TileShape{0, 0};
}

cudaError_t attention_sm80(const Problem& problem, Element element, bool tf32, cudaStream_t stream) {
  return run(problem, element, tf32, 0, problem.plan.tiles, stream);
}

cudaError_t attention_over_tiles(const Problem& problem, Element element, int32_t first, int32_t end,
                                 cudaStream_t stream) {
  return run(problem, element, false, first, end, stream);
}

}  // namespace na::cuda
