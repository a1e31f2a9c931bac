#include "arch/enqueue.h"
#include "attention/plan.h"
#include "core/plan_entry.h"
#include "tile/grid_score.h"
#include "tile/pages.h"

namespace na::cuda {

constexpr int kPlanWarps = 4;
constexpr int64_t kMostPlanGroups = 1 << 14;  // of kPlanWarps warps
constexpr uint32_t kBlockBits = (1u << 24) - 1, kKindBits = 3u << 27;
constexpr uint32_t kFullKind = uint32_t{NA_ENTRY_FULL} << 27, kTailKind = uint32_t{NA_ENTRY_TAIL} << 27;
constexpr uint32_t kBitmapKind = uint32_t{NA_ENTRY_BITMAP} << 27;
constexpr uint32_t kWholeWarp = 0xffffffff;

struct PlanWords {
  const int32_t* offsets;  // nullptr: each row has row_words words
  const uint32_t* entries;
  int64_t row_words, words, bitmaps;  // words, bitmaps: how many there are
  int32_t plan_batch, heads, block;   // block: the exponent of key_block
  PlanShape shape;
  Unfolded to;
};

__device__ inline void touch_pages(const PlanWords& plan, int32_t batch, uint32_t block) {
  const TouchedPages& touched = plan.to.touched;
  const auto first = static_cast<int32_t>(block << plan.block), last = first + (1 << plan.block) - 1;
  const int64_t end = min(int64_t{divide(last, touched.tokens)} + 1, touched.count);
  for (int64_t page = divide(first, touched.tokens); page < end; page++)
    touched.marks[batch * touched.count + page] = 1;
}

// A warp has a row at a time, and looks at 32 of its words together. The blocks of a row take the places of its words,
// or fewer. Batch entries with one row in the plan write the same ones: what those with fewer keys see of a level comes
// first. (Rows that do not ascend, or overlap, which only words that are no plan's can make, mix their blocks.)
__global__ void __launch_bounds__(32 * kPlanWarps) unfold_plan_kernel(const __grid_constant__ PlanWords plan) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t before = (1u << lane) - 1;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kPlanWarps;
  const auto tiles = static_cast<int32_t>(plan.shape.tiles());
  const int64_t each = int64_t{plan.heads} * tiles, rows = plan.to.batch * each;
  const auto level = static_cast<uint32_t>(plan.to.level);
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kPlanWarps + threadIdx.x / 32; row < rows; row += warps) {
    const auto batch = static_cast<int32_t>(row / each);
    const int64_t from_row = plan.plan_batch == 1 ? row % each : row;
    const int64_t given = plan.offsets ? plan.offsets[from_row] : from_row * plan.row_words;
    const int64_t begin = min(max(given, int64_t{0}), plan.words);
    const int64_t given_end = plan.offsets ? plan.offsets[from_row + 1] : given + plan.row_words;
    const int64_t end = min(max(given_end, begin), plan.words);
    const int64_t tile = row % tiles;
    const PlanShape shape = plan.to.pages.tables ? plan.shape.with_keys(cached_keys(plan.to.pages, batch)) : plan.shape;
    // How many blocks, from the first on, all queries of the row see whole, and have all their keys.
    const auto full_blocks = static_cast<uint32_t>(shape.visible_keys(shape.first_query(tile)) >> plan.block);
    const auto blocks = static_cast<uint32_t>(level == 0 ? shape.blocks() : shape.whole_blocks(tile));
    int32_t count = 0, full = 0;
    bool all_full = true;
    bool is_index = false;  // whether the next word is the index of a bitmap
    for (int64_t from = begin; from < end; from += 32) {
      const int64_t at = from + lane;
      const uint32_t word = at < end ? plan.entries[at] : ~0u;
      const bool names = (word & ~kBlockBits) == kBitmapKind;
      const uint32_t naming = __ballot_sync(kWholeWarp, names);
      uint32_t indices = 0;
      if (naming || is_index) {
#pragma unroll 1
        for (int i = 0; i < 32; i++) {
          if (is_index) indices |= 1u << i;
          is_index = !is_index && (naming >> i & 1);
        }
      }
      const uint32_t block = word & kBlockBits;
      const uint32_t kind = word & kKindBits;
      bool there = (word & ~(kBlockBits | kKindBits)) == level << 24 && !(indices >> lane & 1) && block < blocks &&
                   (level == 0 || kind == kFullKind || kind == kTailKind);
      int32_t bitmap = -1;
      if (there && kind == kBitmapKind) {
        const uint32_t index = at + 1 < end ? plan.entries[at + 1] : ~0u;
        there = index < plan.bitmaps;
        bitmap = static_cast<int32_t>(index);
      }
      const uint32_t kept = __ballot_sync(kWholeWarp, there);
      const uint32_t cut = __ballot_sync(kWholeWarp, there && (bitmap >= 0 || block >= full_blocks));
      if (there) {
        plan.to.blocks[begin + count + __popc(kept & before)] = {
            static_cast<int32_t>(block << (plan.block - plan.to.level)), bitmap};
        if (plan.to.touched.marks) touch_pages(plan, batch, block);
      }
      if (all_full) full += __popc(kept & ((cut & -cut) - 1));
      all_full &= cut == 0;
      count += __popc(kept);
    }
    // No plan lists more, and so the key tiles of a row can be counted in 32 bits.
    constexpr int32_t most = kBlockBits + 1;
    if (lane == 0) plan.to.rows[row] = {static_cast<int32_t>(begin), min(full, most), min(count, most)};
  }
}

cudaError_t unfold_plan(const na_plan& plan, const Unfolded& to, cudaStream_t stream) {
  const PlanWords words{plan.offsets ? static_cast<const int32_t*>(plan.offsets->data) : nullptr,
                        static_cast<const uint32_t*>(plan.entries->data),
                        plan.row_words,
                        plan.entries->shape[0],
                        plan.bitmaps ? plan.bitmaps->shape[0] : 0,
                        static_cast<int32_t>(plan.batch),
                        static_cast<int32_t>(plan.heads),
                        exponent(plan.key_block),
                        PlanShape(plan),
                        to};
  const int64_t rows = to.batch * plan.heads * words.shape.tiles();
  const int64_t needed = std::min((rows + kPlanWarps - 1) / kPlanWarps, kMostPlanGroups);
  return enqueue_kernel(unfold_plan_kernel, dim3(static_cast<unsigned>(needed)), 32 * kPlanWarps, stream, words);
}

struct PlanSight {
  const PlanRow* rows;
  const PlanBlock* blocks;
  const uint32_t* bitmaps;
  Sights to;
  int64_t row_count;
  int32_t tiles, runs;
  PlanShape shape;
};

static_assert(kMostQueryWords == kMostQueryTile / 32);

// Whether a bitmap shows each query all keys of a block that there are, or none. A whole warp, for all lanes alike.
__device__ inline bool shows_whole(const PlanSight& plan, int32_t key, int32_t bitmap, int lane) {
  const auto words = static_cast<int32_t>(plan.shape.query_words());
  const uint32_t* const of = plan.bitmaps + bitmap * plan.shape.key_block * words;
  const auto end = static_cast<int32_t>(min(plan.shape.key_block, plan.shape.keys - key)) * words;
  bool alike = true;
#pragma unroll 2
  for (int32_t at = lane; at < end; at += 32) alike &= of[at] == of[at % words];
  return __all_sync(kWholeWarp, alike);
}

// 1 if a block was not marked before.
__device__ inline float mark(uint32_t* marks, int32_t block) {
  const uint32_t bit = 1u << block % 32;
  return (atomicOr(&marks[block / 32], bit) & bit) == 0 ? 1 : 0;
}

__device__ inline float sum_of_warp(float x) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(kWholeWarp, x, i);
  return x;
}

// A warp has a row at a time, and each lane one of 32 of its blocks.
__global__ void __launch_bounds__(32 * kPlanWarps) see_plan_kernel(const __grid_constant__ PlanSight plan) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kPlanWarps;
  const auto words = static_cast<int32_t>(plan.shape.query_words()), size = static_cast<int32_t>(plan.shape.key_block);
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kPlanWarps + threadIdx.x / 32; n < plan.row_count; n += warps) {
    const PlanRow row = plan.rows[n];
    const auto tile = static_cast<int32_t>(n % plan.tiles);
    uint32_t* const marks =
        plan.to.marks + (n / plan.tiles * plan.runs + tile / plan.to.run_tiles) * plan.to.mark_words;
    RowSight sight = {0, 0, 0, 0};
    // The last block before these 32: the first key behind it, and who sees it.
    int32_t end = -1;
    uint32_t last[kMostQueryWords] = {};
#pragma unroll 1
    for (int32_t from = 0; from < row.count; from += 32) {
      const bool there = from + lane < row.count;
      const PlanBlock block = there ? plan.blocks[row.begin + from + lane] : PlanBlock{-1, -1};
      const int32_t before = __shfl_up_sync(kWholeWarp, block.key + size, 1);
      bool goes_on = there && block.key == (lane == 0 ? end : before);
      int32_t listed = 0, seen = 0;
#pragma unroll
      for (int word = 0; word < kMostQueryWords; word++) {
        const uint32_t all = word < words && there ? plan.shape.queries_of_word(tile, word) : 0;
        const bool asks = all != 0 && block.bitmap >= 0;
        const uint32_t own = asks ? all & plan.bitmaps[int64_t{block.bitmap} * size * words + word] : all;
        const uint32_t other = __shfl_up_sync(kWholeWarp, own, 1);
        goes_on &= own == (lane == 0 ? last[word] : other);
        last[word] = __shfl_sync(kWholeWarp, own, 31);
        listed += __popc(all);
        seen += __popc(own);
      }
      end = __shfl_sync(kWholeWarp, block.key + size, 31);
      sight.listed += static_cast<float>(listed);
      sight.seen += static_cast<float>(seen);
      if (seen > 0 && !goes_on) {
        sight.begun += static_cast<float>(seen);
        sight.chains += mark(marks, block.key / size);
      }
      // Where the queries of a row end, the chain of others ends as well.
      const int32_t behind = block.key + size;
      const bool ends = __shfl_down_sync(kWholeWarp, !goes_on, 1) || lane == 31;
      if (seen > 0 && ends && behind < plan.shape.keys) sight.chains += mark(marks, behind / size);
      bool whole = true;
      for (int i = 0; i < 32 && whole; i++) {
        const int32_t bitmap = __shfl_sync(kWholeWarp, block.bitmap, i), key = __shfl_sync(kWholeWarp, block.key, i);
        whole = bitmap < 0 || shows_whole(plan, key, bitmap, lane);
      }
      if (!whole) {
        sight.seen = __builtin_huge_valf();
        break;
      }
    }
    sight = {sum_of_warp(sight.listed), sum_of_warp(sight.seen), sum_of_warp(sight.begun), sum_of_warp(sight.chains)};
    if (lane == 0) plan.to.rows[n] = sight;
  }
}

cudaError_t see_plan(const na_plan& plan, const Unfolded& unfolded, const Sights& to, cudaStream_t stream) {
  const PlanShape shape(plan);
  const auto tiles = static_cast<int32_t>(shape.tiles()), runs = (tiles + to.run_tiles - 1) / to.run_tiles;
  const int64_t heads = unfolded.batch * plan.heads, rows = heads * tiles;
  const PlanSight sight{
      unfolded.rows, unfolded.blocks, static_cast<const uint32_t*>(plan.bitmaps->data), to, rows, tiles, runs, shape};
  const auto bytes = static_cast<size_t>(sight_marks(plan, to.run_tiles)) * sizeof(uint32_t);
  if (const cudaError_t status = cudaMemsetAsync(to.marks, 0, bytes, stream); status != cudaSuccess) return status;
  const int64_t needed = std::min((rows + kPlanWarps - 1) / kPlanWarps, kMostPlanGroups);
  return enqueue_kernel(see_plan_kernel, dim3(static_cast<unsigned>(needed)), 32 * kPlanWarps, stream, sight);
}

struct PlanCut {
  PlanRow* rows;
  PlanBlock* blocks;
  const uint32_t* from;  // the bitmaps of the plan, and how many there are
  int32_t from_count;
  uint32_t* to;
  int64_t row_count;
  int32_t queries, keys, tiles, query_tile, key_block;
  Grid grid;
};

__device__ inline Place coordinates_of(const Grid& grid, int32_t token) {
  const int32_t rest = token / grid.extent[2];
  return {{rest / grid.extent[1], rest % grid.extent[1], token % grid.extent[2]}};
}

// A warp has a row at a time, and each lane one of 32 queries, for all of which a ballot makes a word of a bitmap.
// Blocks of which nothing is left are left out.
__global__ void __launch_bounds__(32 * kPlanWarps) cut_plan_kernel(const __grid_constant__ PlanCut cut) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kPlanWarps;
  const int32_t rows = 1 << cut.query_tile, keys = 1 << cut.key_block, words = (rows + 31) / 32;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kPlanWarps + threadIdx.x / 32; n < cut.row_count; n += warps) {
    const PlanRow row = cut.rows[n];
    const int32_t first = static_cast<int32_t>(n % cut.tiles) << cut.query_tile;
    int32_t kept = 0;
#pragma unroll 1
    for (int32_t i = 0; i < row.count; i++) {
      const PlanBlock block = cut.blocks[row.begin + i];
      const int64_t bitmap = int64_t{keys} * words;
      const uint32_t* const from =
          block.bitmap >= 0 && block.bitmap < cut.from_count ? cut.from + block.bitmap * bitmap : nullptr;
      uint32_t* const to = cut.to + (row.begin + kept) * bitmap;
      uint32_t any = 0;
#pragma unroll 1
      for (int32_t word = 0; word < words; word++) {
        const int32_t own = 32 * word + lane, query = first + own;
        const bool there = own < rows && query < cut.queries;
        const Place at = coordinates_of(cut.grid, there ? query : 0);
#pragma unroll 1
        for (int32_t key = 0; key < keys; key++) {
          bool sees = there && block.key + key < cut.keys;
          const Place of = coordinates_of(cut.grid, min(block.key + key, cut.keys - 1));
#pragma unroll 1
          for (int32_t m = 0; m < cut.grid.neighborhood_count; m++) {
            sees &= !hides(cut.grid, cut.grid.neighborhoods[m], at.at, of.at);
          }
          uint32_t seen = __ballot_sync(kWholeWarp, sees);
          if (from) seen &= from[key * words + word];
          if (lane == 0) to[key * words + word] = seen;
          any |= seen;
        }
      }
      if (any == 0) continue;
      if (lane == 0) cut.blocks[row.begin + kept] = {block.key, row.begin + kept};
      kept++;
    }
    if (lane == 0) cut.rows[n] = {row.begin, 0, kept};
  }
}

cudaError_t cut_plan(const na_plan& plan, const Grid& grid, PlanRow* rows, PlanBlock* blocks, uint32_t* bitmaps,
                     cudaStream_t stream) {
  PlanCut cut{};
  cut.rows = rows;
  cut.blocks = blocks;
  if (plan.bitmaps) {
    cut.from = static_cast<const uint32_t*>(plan.bitmaps->data);
    cut.from_count = static_cast<int32_t>(plan.bitmaps->shape[0]);
  }
  cut.to = bitmaps;
  cut.row_count = plan_rows(plan);
  cut.queries = static_cast<int32_t>(plan.queries);
  cut.keys = static_cast<int32_t>(plan.keys);
  cut.tiles = static_cast<int32_t>((plan.queries + plan.query_tile - 1) / plan.query_tile);
  cut.query_tile = exponent(plan.query_tile);
  cut.key_block = exponent(plan.key_block);
  cut.grid = grid;
  const int64_t needed = std::min((cut.row_count + kPlanWarps - 1) / kPlanWarps, kMostPlanGroups);
  return enqueue_kernel(cut_plan_kernel, dim3(static_cast<unsigned>(needed)), 32 * kPlanWarps, stream, cut);
}

}  // namespace na::cuda
