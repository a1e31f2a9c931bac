#include "cuda/estimate.h"

#include <algorithm>

#include "attention/plan.h"
#include "core/ceil_div.h"
#include "core/dtype.h"
#include "cuda/plan.h"
#include "tile/divisor.h"

namespace na::cuda {
namespace {

// Rows whose pairs are there at the same time fill a device so many times, unless these take too much memory.
constexpr int64_t kRounds = 4, kMostPairBytes = int64_t{1} << 26;

// How the unlisted blocks of a call are laid out: rows for patterns of heads, and of batch entries where these differ,
// each of a tile of queries.
struct Layout {
  int64_t batch, tiles, blocks, room;

  Layout(const na_attention& call, const na_plan& plan)
      : batch(call.pages ? call.q->shape[0] : plan.batch),
        tiles(ceil_div(plan.queries, plan.query_tile)),
        blocks(ceil_div(plan.keys, plan.key_block)),
        room(ceil_div(blocks, 2)) {}

  // How many tiles of queries have room for their pairs at a time, where so many blocks of threads run at a time.
  int64_t tiles_together(int64_t places, int64_t heads) const {
    const int64_t most = std::min(int64_t{INT32_MAX}, kMostPairBytes / int64_t{sizeof(PlanBlock)}) / room;
    return std::clamp<int64_t>(std::min(kRounds * places, most) / heads, 1, tiles);
  }
};

CachedMeans cached_means(const na_summaries& means) {
  const na_tensor& rest = *means.rest;
  return {segments_of(means), static_cast<const char*>(rest.data), rest.stride[0] * dtype_size(rest.dtype)};
}

}  // namespace

Status check_estimate(const na_attention& call) {
  const na_plan& plan = *plan_of(call);
  const Layout of(call, plan);
  if (of.batch * plan.heads * of.room <= INT32_MAX) return {};
  return error(NA_ERR_SHAPE,
               "mask: a SparsePlan that estimates %lld blocks, of %lld batch entries and %lld patterns of heads; CUDA "
               "takes less than 2^32 of them together: make its blocks larger, or call attention for fewer at once",
               static_cast<long long>(of.blocks), static_cast<long long>(of.batch), static_cast<long long>(plan.heads));
}

Estimate make_estimate(const na_attention& call, const na_plan& plan, const Problem& listed, int64_t places,
                       const std::function<void*(int64_t bytes)>& take) {
  const Layout of(call, plan);
  const int64_t heads = of.batch * plan.heads;
  const int64_t together = of.tiles_together(places, heads);
  const int64_t words = kPairBitmaps * 2 * ceil_div(plan.query_tile, 32);
  Estimate estimate{listed,
                    {PlanShape(plan),
                     listed.plan,
                     listed.pages,
                     static_cast<int32_t>(of.batch),
                     static_cast<int32_t>(of.blocks),
                     static_cast<int32_t>(of.room),
                     static_cast<PlanRow*>(take(heads * of.tiles * int64_t{sizeof(PlanRow)})),
                     static_cast<PlanBlock*>(take(heads * together * of.room * int64_t{sizeof(PlanBlock)})),
                     static_cast<uint32_t*>(take(words * int64_t{sizeof(uint32_t)})),
                     static_cast<float*>(take(of.batch * of.blocks * int64_t{sizeof(float)})),
                     {}},
                    static_cast<int32_t>(together)};
  Unlisted& unlisted = estimate.unlisted;
  Problem& means = estimate.means;
  means.keys = unlisted.blocks;
  const bool paged = call.pooled_k && call.pooled_k->segments;
  const auto strides = [&](int64_t columns) {
    const int64_t head = columns * (paged ? dtype_size(call.k->dtype) : 1), token = means.kv_heads * head;
    return Strides{paged ? 0 : of.blocks * token, token, head};
  };
  means.k_strides = strides(means.head_dim);
  means.v_strides = strides(means.value_dim);
  means.left = means.right = kUnlimited;
  means.pages = {};
  if (paged) {
    const int64_t each = call.pooled_k->segment_blocks, room = ceil_div(of.blocks, each);
    auto* const tables = static_cast<int64_t*>(take(of.batch * (1 + 2 * room) * int64_t{sizeof(int64_t)}));
    unlisted.means = {cached_means(*call.pooled_k), cached_means(*call.pooled_v), tables, static_cast<int32_t>(room),
                      exponent(each)};
    means.k = means.v = nullptr;
    means.pages = {tables, 1 + 2 * room, 0, divisor_of(each), room, false};
  } else if (call.pooled_k) {  // not where a call is but checked
    means.k = call.pooled_k->rest->data;
    means.v = call.pooled_v->rest->data;
  }
  means.plan.rows = unlisted.rows;
  means.plan.blocks = unlisted.pairs;
  means.plan.bitmaps = unlisted.bitmaps;
  means.plan.batch = unlisted.batch;
  means.plan.key_block = kPairExponent;
  means.plan.masked = false;
  Bias& counts = means.biases[0];
  counts.kind = BiasKind::kDense;
  counts.data = unlisted.log_counts;
  counts.batch = of.batch > 1 ? of.blocks : 0;
  counts.key = 1;
  means.bias_count = 1;
  return estimate;
}

cudaError_t attention_over_means(const Estimate& estimate, Element element, cudaStream_t stream) {
  const int32_t tiles = estimate.means.plan.tiles;
  cudaError_t result = describe_means(estimate.unlisted, stream);
  for (int32_t first = 0; first < tiles && result == cudaSuccess; first += estimate.tiles_together) {
    const int32_t end = std::min(first + estimate.tiles_together, tiles);
    result = list_unlisted(estimate.unlisted, first, end, stream);
    if (result == cudaSuccess) result = attention_over_tiles(estimate.means, element, first, end, stream);
  }
  return result;
}

int64_t estimate_launches(const na_attention& call, const na_plan& plan, int64_t places) {
  const Layout of(call, plan);
  return 1 + 2 * ceil_div(of.tiles, of.tiles_together(places, of.batch * plan.heads));
}

}  // namespace na::cuda
