#include "cuda/means.h"

#include <algorithm>

#include "core/ceil_div.h"
#include "core/dtype.h"
#include "cuda/plan.h"
#include "tile/divisor.h"

namespace na::cuda {
namespace {

// Rows whose pairs are there at the same time fill a device so many times, unless these take too much memory.
constexpr int64_t kRounds = 4, kMostPairBytes = int64_t{1} << 26;

// How many batch entries have rows of their own: where not all are alike, those of the call.
int64_t batch_of(const na_attention& call, const na_plan& plan) { return call.pages ? call.q->shape[0] : plan.batch; }

// How the unlisted blocks of a call are laid out: rows for patterns of heads, and of batch entries where these differ,
// each of a tile of queries, with room for pairs.
struct Layout {
  int64_t batch, tiles, blocks, room;
  int64_t bitmap_bytes;  // of a pair
  int64_t bitmaps;       // for each pair

  Layout(const na_attention& call, const na_plan& plan)
      : batch(batch_of(call, plan)),
        tiles(ceil_div(plan.queries, plan.query_tile)),
        blocks(ceil_div(plan.keys, plan.key_block)),
        room(ceil_div(blocks, 2)),
        bitmap_bytes(2 * ceil_div(plan.query_tile, 32) * int64_t{sizeof(uint32_t)}),
        bitmaps(plan.bitmaps ? 1 : 0) {}

  // How many tiles of queries have room for their pairs at a time, where so many blocks of threads run at a time.
  int64_t tiles_together(int64_t places, int64_t heads) const {
    const int64_t pair_bytes = int64_t{sizeof(PlanBlock)} + bitmaps * bitmap_bytes;
    const int64_t most = kMostPairBytes / pair_bytes / room;
    return std::clamp<int64_t>(std::min(kRounds * places, most) / heads, 1, tiles);
  }
};

CachedMeans cached_means(const na_summaries& means) {
  const na_tensor& rest = *means.rest;
  return {segments_of(means), static_cast<const char*>(rest.data), rest.stride[0] * dtype_size(rest.dtype)};
}

// What attention over means of 2^level keys is, but for its rows.
void make_means(const na_attention& call, const na_plan& plan, const Problem& listed, int level, const Take& take,
                Problem* problem, Means* means) {
  const int64_t batch = batch_of(call, plan), count = ceil_div(plan.keys, int64_t{1} << level);
  *means = {level,
            static_cast<int32_t>(plan.keys),
            listed.pages,
            static_cast<int32_t>(batch),
            static_cast<int32_t>(count),
            static_cast<float*>(take(batch * count * int64_t{sizeof(float)})),
            {}};
  Problem& p = *problem = listed;
  p.keys = means->count;
  const na_summaries *const pooled_k = call.pooled_k[level], *const pooled_v = call.pooled_v[level];
  const bool paged = pooled_k && pooled_k->segments;
  const auto strides = [&](int64_t columns) {
    const int64_t head = columns * (paged ? dtype_size(call.k->dtype) : 1), token = p.kv_heads * head;
    return Strides{paged ? 0 : count * token, token, head};
  };
  p.k_strides = strides(p.head_dim);
  p.v_strides = strides(p.value_dim);
  p.left = p.right = kUnlimited;
  p.pages = {};
  if (paged) {
    const int64_t each = pooled_k->segment_blocks, room = ceil_div(count, each);
    auto* const tables = static_cast<int64_t*>(take(batch * (1 + 2 * room) * int64_t{sizeof(int64_t)}));
    means->of_cache = {cached_means(*pooled_k), cached_means(*pooled_v), tables, static_cast<int32_t>(room),
                       exponent(each)};
    p.k = p.v = nullptr;
    p.pages = {tables, 1 + 2 * room, 0, divisor_of(each), room, false};
  } else if (pooled_k) {  // not where a call is but checked
    p.k = pooled_k->rest->data;
    p.v = pooled_v->rest->data;
  }
  p.plan.batch = means->batch;
  p.plan.masked = false;
  Bias& counts = p.biases[0];
  counts.kind = BiasKind::kDense;
  counts.data = means->log_counts;
  counts.batch = batch > 1 ? count : 0;
  counts.key = 1;
  p.bias_count = 1;
}

}  // namespace

Status check_estimate(const na_attention& call) {
  const na_plan& plan = *plan_of(call);
  const Layout of(call, plan);
  if (of.batch * plan.heads * of.room <= INT32_MAX - kPairBitmaps) return {};
  return error(NA_ERR_SHAPE,
               "mask: a SparsePlan that estimates %lld blocks, of %lld batch entries and %lld patterns of heads; CUDA "
               "takes less than 2^32 of them together: make its blocks larger, or call attention for fewer at once",
               static_cast<long long>(of.blocks), static_cast<long long>(of.batch), static_cast<long long>(plan.heads));
}

Level make_level(const na_attention& call, const na_plan& plan, const Problem& listed, int level, const Take& take) {
  Level made{};
  make_means(call, plan, listed, level, take, &made.problem, &made.means);
  const int64_t rows = made.means.batch * plan.heads * listed.plan.tiles;
  made.rows = {static_cast<PlanRow*>(take(rows * int64_t{sizeof(PlanRow)})),
               static_cast<PlanBlock*>(take(plan.entries->shape[0] * int64_t{sizeof(PlanBlock)})),
               made.means.batch,
               level,
               listed.pages,
               {}};
  SparseRows& to = made.problem.plan;
  to.rows = made.rows.rows;
  to.blocks = made.rows.blocks;
  to.bitmaps = nullptr;
  to.key_block -= level;
  return made;
}

Estimate make_estimate(const na_attention& call, const na_plan& plan, const Problem& listed,
                       const std::vector<Level>& levels, int64_t places, const Take& take) {
  const Layout of(call, plan);
  const int64_t heads = of.batch * plan.heads;
  const int64_t together = of.tiles_together(places, heads);
  const int64_t pairs = heads * together * of.room;
  Estimate made{{},
                {},
                {PlanShape(plan),
                 {listed.plan},
                 1,
                 listed.pages,
                 static_cast<int32_t>(of.batch),
                 static_cast<int32_t>(of.room),
                 static_cast<PlanRow*>(take(heads * of.tiles * int64_t{sizeof(PlanRow)})),
                 static_cast<PlanBlock*>(take(pairs * int64_t{sizeof(PlanBlock)})),
                 static_cast<uint32_t*>(take((kPairBitmaps + of.bitmaps * pairs) * of.bitmap_bytes))},
                static_cast<int32_t>(together)};
  for (const Level& level : levels) made.unlisted.listed[made.unlisted.listed_count++] = level.problem.plan;
  make_means(call, plan, listed, exponent(plan.key_block), take, &made.problem, &made.means);
  SparseRows& to = made.problem.plan;
  to.rows = made.unlisted.rows;
  to.blocks = made.unlisted.pairs;
  to.bitmaps = made.unlisted.bitmaps;
  to.key_block = kPairExponent;
  return made;
}

cudaError_t attention_over_level(const na_plan& plan, const Level& level, Element element, cudaStream_t stream) {
  cudaError_t result = describe_means(level.means, stream);
  if (result == cudaSuccess) result = unfold_plan(plan, level.rows, stream);
  if (result == cudaSuccess) result = attention_sm80(level.problem, element, false, stream);
  return result;
}

cudaError_t attention_over_estimate(const Estimate& estimate, Element element, cudaStream_t stream) {
  const int32_t tiles = estimate.problem.plan.tiles;
  cudaError_t result = describe_means(estimate.means, stream);
  for (int32_t first = 0; first < tiles && result == cudaSuccess; first += estimate.tiles_together) {
    const int32_t end = std::min(first + estimate.tiles_together, tiles);
    result = list_unlisted(estimate.unlisted, first, end, stream);
    if (result == cudaSuccess) result = attention_over_tiles(estimate.problem, element, first, end, stream);
  }
  return result;
}

int64_t means_launches(const na_attention& call, const na_plan& plan, int64_t places) {
  int64_t launches = 0;
  for (int level = 1; level < NA_LEVELS; level++) launches += 3 * (plan.levels >> level & 1);
  if (!plan.estimate) return launches;
  const Layout of(call, plan);
  return launches + 1 + 2 * ceil_div(of.tiles, of.tiles_together(places, of.batch * plan.heads));
}

}  // namespace na::cuda
