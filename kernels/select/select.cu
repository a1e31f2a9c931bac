// A selector is a few steps for all rows of a plan: scores of what each row chooses from, then a block of threads for
// each row that keeps the best. Rows are written where they have room for all that they may list; where a row may list
// less, into memory of their own, from which they are copied once it is known how many words each has got. Nothing of
// this is known to the host, which launches as many steps, and allocates as much memory, as the geometry may take.
#include <algorithm>

#include "arch/enqueue.h"
#include "core/ceil_div.h"
#include "core/dtype.h"
#include "core/hip_stages.h"
#include "select/own_queries.h"
#include "select/pool.h"
#include "select/select.h"
#include "tile/exponent.h"

namespace na::cuda {

constexpr int kPlaceThreads = 1024;
constexpr int kMostBudgets = 1000;  // arguments of a kernel have 4 KiB
constexpr int64_t kMostSelectBlocks = 1 << 16;
constexpr int64_t kSelectBytes = int64_t{1} << 26;  // for rows of a launch; more of them do not fill a device better

struct BudgetArguments {
  int32_t* to;
  int32_t count;
  int32_t values[kMostBudgets];
};
static_assert(sizeof(BudgetArguments) <= 4096);

__global__ void budgets_kernel(const __grid_constant__ BudgetArguments a) {
  for (auto i = static_cast<int32_t>(threadIdx.x); i < a.count; i += static_cast<int32_t>(blockDim.x)) {
    a.to[i] = a.values[i];
  }
}

// How many words a row of the plan may take at most.
__device__ inline int64_t room_of_row(const Selection& a, int32_t row) {
  const auto tiles = static_cast<int32_t>(a.plan.tiles());
  const int64_t tile = row % tiles, budget = a.budgets[row / tiles % a.patterns];
  const PlanShape shape = a.own_shape(a.plan, row / tiles / a.patterns);
  return a.seen ? kWordsOfBitmap * room_of_queries(shape, tile, a.sink, a.window, budget)
                : SelectedRow(shape, tile, a.sink, a.window).most(budget + a.by_levels);
}

// Where each row begins, and the end of the last: by the words that it has got, or those that it may take at most.
__global__ void __launch_bounds__(kPlaceThreads)
    places_kernel(const __grid_constant__ Selection a, const int32_t* counts, int32_t* places, int32_t rows) {
  __shared__ Sum warps[kMostWarps];
  Sum end = 0;
  for (int32_t first = 0; first < rows; first += kPlaceThreads) {
    const int32_t row = first + static_cast<int32_t>(threadIdx.x);
    Sum own = 0, all;
    if (row < rows && counts) own = static_cast<Sum>(counts[row]);
    if (row < rows && !counts) own = static_cast<Sum>(room_of_row(a, row));
    const Sum before = sum_before(own, warps, &all);
    if (row < rows) places[row] = static_cast<int32_t>(end + before);
    end += all;
  }
  if (threadIdx.x == 0) places[rows] = static_cast<int32_t>(end);
}

__device__ inline int64_t place_of_row(const Selection& a, int32_t row) {
  return a.places ? a.places[row] : row * a.row_words;
}

// Entries of a row, from `to` on; the full ones are those of the lowest blocks. Of a query that selects for itself,
// marks.
struct RowWriter {
  const Selection& a;
  const WantedRow& row;
  const QueryMarks marks;
  uint32_t* const to;

  __device__ RowWriter(const Selection& a, const WantedRow& row)
      : a(a), row(row), marks(a, row), to(a.seen ? nullptr : a.entries + place_of_row(a, row.index)) {}
  __device__ void write(int64_t place, int64_t block) const {
    if (marks.of_row) {
      marks.mark(block);
    } else {
      to[place] = plan_entry(block, a.shape.kind_of(row.tile, block));
    }
  }
  // The row has so many.
  __device__ void end(int64_t count) const {
    if (a.counts && !a.seen && threadIdx.x == 0) a.counts[row.index] = static_cast<int32_t>(count);
    if (a.places) return;
    for (int64_t n = count + threadIdx.x; n < a.row_words; n += kChooseThreads) to[n] = NA_NO_WORD;
  }
  __device__ void write(int64_t place, const BlockRange& blocks) const {
    for (int64_t n = threadIdx.x; n < blocks.end - blocks.begin; n += kChooseThreads) {
      write(place + n, blocks.begin + n);
    }
  }
};

// What top_p and threshold allow. It shares no kernel with what follows, since exponentials take registers, of which
// ptxas would rather spill some than have one block less on a multiprocessor.
__global__ void __launch_bounds__(kChooseThreads, 1) shares_kernel(const __grid_constant__ Selection a) {
  __shared__ ChooseMemory memory;
  const auto local = static_cast<int64_t>(blockIdx.x);
  const WantedRow row(a, local);
  if (!row.searched) return;
  const uint32_t* const keys = a.scores + local * a.scores_room;
  const Choices choices(a, row, local);
  const Cut cut = cut_of_shares(keys, choices.count, a.scale, a.top_p, a.threshold, memory);
  if (threadIdx.x == 0) a.cuts[local] = cut;
}

// A block of threads keeps the best choices of a row, in their order. Where there are levels, their scores are removed.
__global__ void __launch_bounds__(kChooseThreads) choose_kernel(const __grid_constant__ Selection a) {
  __shared__ ChooseMemory memory;
  const auto local = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const WantedRow row(a, local);
  const RowWriter writer(a, row);
  int32_t* const list = a.to.data ? a.to.data + local * a.to.pitch : nullptr;
  const BlockRange sink = row.here.always[0], window = row.here.always[1];
  const int64_t sink_count = sink.end - sink.begin, window_count = window.end - window.begin;
  if (!row.searched) {
    if (list && thread == 0) list[0] = 0;
    if (!a.last) return;
    if (row.all) {
      writer.write(0, BlockRange{0, row.here.open[1].end});
    } else {
      writer.write(0, sink);
      writer.write(sink_count, window);
    }
    writer.end(row.here.always_count() + (row.all ? row.here.open_count() : 0));
    return;
  }
  const Choices choices(a, row, local);
  const uint32_t* const keys = a.scores + local * a.scores_room;
  Cut cut = cut_of_count(keys, choices.count, row.keep(a), memory);
  if (a.cuts) cut = shorter(cut, a.cuts[local]);
  Sum above = 0, ties = 0, below = 0;  // choices so far; below: of this thread, those before the window
  for (int32_t first = 0; first < choices.count; first += kChooseThreads) {
    const int32_t n = first + thread;
    const uint32_t key = n < choices.count ? keys[n] : kAbsent;
    const bool is_above = key > cut.key, is_tie = key == cut.key && key != kAbsent;
    // Both are counted at once.
    Sum all;
    const Sum before = sum_before(Sum{is_above} | Sum{is_tie} << 32, memory.warps, &all);
    const Sum ties_before = ties + (before >> 32);
    if (is_above || (is_tie && ties_before < cut.ties)) {
      const auto rank = static_cast<int64_t>(above + (before & 0xffffffff) + min(ties_before, cut.ties));
      const BlockRange choice = choices[n];
      if (list && rank < a.to.room) {
        if (a.selector == NA_SELECT_BISECTION) {
          list[1 + 2 * rank] = static_cast<int32_t>(choice.begin);
          list[2 + 2 * rank] = static_cast<int32_t>(choice.end);
        } else {
          list[1 + rank] = static_cast<int32_t>(choice.begin);
        }
      }
      if (a.last) {
        const int64_t block = choices.block_of(choice);
        const bool is_below = block < window.begin;
        below += is_below;
        writer.write(sink_count + rank + (is_below ? 0 : window_count), block);
        if (a.levels) a.scores[local * a.scores_room + n] = kAbsent;
      }
    }
    above += all & 0xffffffff;
    ties += all >> 32;
  }
  const auto chosen = static_cast<int64_t>(above + min(ties, cut.ties));
  if (list && thread == 0) list[0] = static_cast<int32_t>(min(chosen, int64_t{a.to.room}));
  if (!a.last) return;
  Sum all_below;
  sum_before(below, memory.warps, &all_below);
  writer.write(0, sink);
  writer.write(sink_count + static_cast<int64_t>(all_below), window);
  writer.end(row.here.always_count() + chosen);
}

// Of what choose_kernel has left, the best of those blocks that all queries of the row see whole get levels, and are
// listed behind the others.
__global__ void __launch_bounds__(kChooseThreads) levels_kernel(const __grid_constant__ Selection a) {
  __shared__ ChooseMemory memory;
  const auto local = static_cast<int64_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const WantedRow row(a, local);
  if (!row.searched) return;
  const int64_t whole = row.shape.whole_blocks(row.tile);
  int32_t count = 0;  // of choices that are such: blocks ascend
  for (const BlockRange& range : row.here.open) {
    count += static_cast<int32_t>(max(min(range.end, whole) - range.begin, int64_t{0}));
  }
  uint32_t *const keys = a.scores + local * a.scores_room, *const levels = a.levels + local * a.scores_room;
  for (int32_t n = thread; n < count; n += kChooseThreads) levels[n] = 0;
#pragma unroll 1
  for (uint32_t level = 1; level < NA_LEVELS; level++) {
    if (a.level_budgets[level] == 0) continue;
    const Cut cut = cut_of_count(keys, count, a.level_budgets[level], memory);
    Sum ties = 0;
    for (int32_t first = 0; first < count; first += kChooseThreads) {
      const int32_t n = first + thread;
      const uint32_t key = n < count ? keys[n] : kAbsent;
      const bool is_tie = key == cut.key && key != kAbsent;
      Sum all;
      const Sum before = sum_before(is_tie, memory.warps, &all);
      if (key > cut.key || (is_tie && ties + before < cut.ties)) {
        keys[n] = kAbsent;
        levels[n] = level;
      }
      ties += all;
    }
  }
  const int32_t place = a.places[row.index] + a.counts[row.index];
  Sum listed = 0;
  for (int32_t first = 0; first < count; first += kChooseThreads) {
    const int32_t n = first + thread;
    const uint32_t level = n < count ? levels[n] : 0;
    Sum all;
    const Sum before = sum_before(level > 0, memory.warps, &all);
    if (level > 0) {
      const int64_t block = row.here.open_block(n);
      a.entries[place + listed + before] = plan_entry(block, a.shape.kind_of(row.tile, block), static_cast<int>(level));
    }
    listed += all;
  }
  __syncthreads();  // all have read it
  if (thread == 0) a.counts[row.index] += static_cast<int32_t>(listed);
}

__global__ void __launch_bounds__(kChooseThreads)
    close_up_kernel(const uint32_t* from, const int32_t* places, uint32_t* to, const int32_t* offsets, int32_t rows) {
  for (auto row = static_cast<int32_t>(blockIdx.x); row < rows; row += static_cast<int32_t>(gridDim.x)) {
    const int32_t count = offsets[row + 1] - offsets[row];
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += kChooseThreads) {
      to[int64_t{offsets[row]} + i] = from[int64_t{places[row]} + i];
    }
  }
}

ElementRows element_rows(const na_tensor& tensor) {
  const int32_t rank = tensor.rank;
  return {tensor.data, tensor.stride[0], tensor.stride[rank - 3], tensor.stride[rank - 2], tensor.dtype, 0};
}

// Of keys or values, which may lie in pages.
ElementRows key_rows(const na_tensor& tensor, const na_pages* pages) {
  ElementRows rows = element_rows(tensor);
  if (!pages || !pages->int8) return rows;
  rows.int8 = static_cast<int32_t>(tensor.shape[3]);
  rows.head = page_row_bytes(tensor.dtype, true, rows.int8);
  rows.token = tensor.shape[2] * rows.head;
  return rows;
}

cudaError_t pool(const na_pool& pool, cudaStream_t stream) {
  const na_tensor &k = *pool.k, &rest = *pool.out.rest;
  const int32_t axes = k.rank - 3;
  PoolArguments arguments{};
  arguments.k = key_rows(k, pool.pages);
  arguments.pages = pages_of(pool.pages, pool.page_offset);
  arguments.rest = element_rows(rest);
  arguments.segments = segments_of(pool.out);
  std::fill_n(arguments.extent, NA_MAX_AXES, 1);
  int64_t tokens = 1;
  for (int32_t axis = 0; axis < axes; axis++) {
    const int32_t to = NA_MAX_AXES - axes + axis;
    arguments.extent[to] = static_cast<int32_t>(k.shape[1 + axis]);
    arguments.along[to] = k.stride[1 + axis];
    tokens *= k.shape[1 + axis];
  }
  arguments.tokens = static_cast<int32_t>(tokens);
  arguments.block = pool.block;
  arguments.heads = static_cast<int32_t>(rest.shape[2]);
  arguments.columns = static_cast<int32_t>(k.shape[k.rank - 1]);
  arguments.pooling = pool.pooling;
  for (int64_t entry = 0; entry < rest.shape[0]; entry += kMostPooledEntries) {
    const int64_t entries = std::min<int64_t>(rest.shape[0] - entry, kMostPooledEntries);
    int64_t blocks = 0;
    for (int64_t i = 0; i < entries; i++) {
      const int64_t first = pool.first ? pool.first[entry + i] * pool.out.segment_blocks : 0;
      const int64_t own = pool.pages ? pool.pages->lengths[entry + i] : tokens;
      arguments.firsts[i] = static_cast<int32_t>(first);
      blocks = std::max(blocks, ceil_div(own, int64_t{pool.block}) - first);
    }
    if (blocks == 0) continue;
    arguments.first_entry = static_cast<int32_t>(entry);
    arguments.blocks = static_cast<int32_t>(blocks);
    arguments.count = entries * blocks * rest.shape[2] * arguments.columns;
    const int64_t groups = std::min(ceil_div(arguments.count, kPoolThreads), kMostSelectBlocks);
    const cudaError_t status =
        enqueue_kernel(pool_kernel, dim3(static_cast<unsigned>(groups)), kPoolThreads, stream, arguments);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

int64_t pool_launches(const na_pool& pool) { return ceil_div(pool.out.rest->shape[0], kMostPooledEntries); }

// What select() launches, and where it has its memory.
class Selecting {
 public:
  explicit Selecting(const na_select& select) : select_(select), a_{PlanShape(*select.out), PlanShape(*select.out)} {
    const na_plan& out = *select.out;
    rows_ = plan_rows(out);
    a_.row_words = out.row_words;
    a_.selector = select.selector;
    a_.sink = select.sink;
    a_.window = select.window;
    a_.patterns = static_cast<int32_t>(out.heads);
    a_.tiles = static_cast<int32_t>(a_.shape.tiles());
    a_.block = exponent(out.key_block);
    a_.scale = select.scale;
    a_.top_p = select.top_p;
    a_.threshold = select.threshold;
    a_.q = element_rows(*select.q);
    a_.pages = pages_of(select.pages, 0);
    const int64_t heads = select.q->shape[select.q->rank - 2], kv_heads = select.k->shape[select.k->rank - 2];
    a_.heads = static_cast<int32_t>(heads / out.heads);
    a_.group = static_cast<int32_t>(heads / kv_heads);
    a_.columns = static_cast<int32_t>(select.q->shape[select.q->rank - 1]);
    a_.bounds = select.selector == NA_SELECT_POOLED && select.bounds;
    a_.first = select.first != 0;
    a_.tile_queries = select.tile_queries != 0;
    a_.features = a_.bounds ? 2 * a_.columns : a_.columns;
    a_.pitch = (a_.features + 31) / 32 * 32;
    a_.query_pooling = pools_queries() ? select.query_pooling : NA_POOL_MEAN;
    const bool one_query = pools_queries() || a_.tile_queries;
    a_.queries_room = one_query ? 1 : static_cast<int32_t>(std::min<int64_t>(out.query_tile, out.queries));
    a_.words = static_cast<int32_t>(a_.plan.query_words());
    for (int64_t head = 0; head < out.heads; head++) {
      most_budget_ = std::max(most_budget_, select.budgets[head]);
      if (select.budgets[head] > 0) least_budget_ = std::min(least_budget_, select.budgets[head]);
    }
    for (int level = 1; level < NA_LEVELS; level++) {
      a_.level_budgets[level] = static_cast<int32_t>(select.level_budgets[level]);
      a_.by_levels += a_.level_budgets[level];
    }
    make_room();
  }

  int64_t bytes() const { return words_ * kWord; }

  int64_t count() {
    counts_only_ = true;
    run(nullptr);
    return launches_;
  }

  cudaError_t run(cudaStream_t stream) {
    stream_ = stream;
    put_budgets();
    auto* const entries = static_cast<uint32_t*>(select_.out->entries->data);
    auto* const offsets = even() ? nullptr : static_cast<int32_t*>(select_.out->offsets->data);
    a_.cuts = shares() ? reinterpret_cast<Cut*>(memory(cuts_)) : nullptr;
    a_.k = select_.pooled ? element_rows(*select_.pooled->rest) : key_rows(*select_.k, select_.pages);
    if (select_.pooled) a_.segments = segments_of(*select_.pooled);
    a_.queries = reinterpret_cast<float*>(memory(queries_));
    a_.scores = reinterpret_cast<uint32_t*>(memory(scores_));
    a_.levels = a_.by_levels > 0 ? reinterpret_cast<uint32_t*>(memory(levels_)) : nullptr;
    const bool in_place = even() || exact();
    a_.entries = in_place ? entries : reinterpret_cast<uint32_t*>(memory(entries_));
    a_.counts = in_place ? nullptr : memory(counts_);
    a_.seen = select_.per_query ? reinterpret_cast<uint32_t*>(memory(seen_)) : nullptr;
    int32_t* const places = in_place ? offsets : memory(places_);
    a_.places = places;
    if (!even()) place(nullptr, places);
    for (int64_t first = 0; first < rows_; first += rows_together_) {
      a_.first_row = first;
      choose(std::min(rows_together_, rows_ - first));
    }
    if (in_place) return status_;
    place(a_.counts, offsets);
    const int64_t blocks = std::min(rows_, kMostSelectBlocks);
    launch(close_up_kernel, blocks, kChooseThreads, a_.entries, places, entries, offsets, static_cast<int32_t>(rows_));
    return status_;
  }

 private:
  static constexpr int64_t kWord = 4, kAligned = 16;  // bytes, words

  bool pools_queries() const { return select_.selector == NA_SELECT_POOLED && select_.query_pooling >= 0; }
  // Whether all rows have as many words.
  bool even() const { return !select_.out->offsets; }
  // Whether rows list as many blocks as they have room for.
  bool exact() const {
    return select_.selector != NA_SELECT_HIP && !shares() && !select_.per_query && a_.by_levels == 0;
  }
  bool shares() const { return select_.top_p < 1 || select_.threshold > 0; }

  int64_t take(int64_t words) {
    const int64_t at = words_;
    words_ += ceil_div(words, kAligned) * kAligned;
    return at;
  }
  // The first error stays.
  template <typename Enqueue>
  void add(const Enqueue& enqueue) {
    launches_++;
    if (counts_only_) return;
    const cudaError_t status = enqueue();
    if (status_ == cudaSuccess) status_ = status;
  }
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, const Arguments&... arguments) {
    add([&] {
      return enqueue_kernel(kernel, dim3(static_cast<unsigned>(blocks)), static_cast<unsigned>(threads), stream_,
                            arguments...);
    });
  }
  int32_t* memory(int64_t at) const { return static_cast<int32_t*>(select_.workspace) + at; }

  // How many chunks are chosen from in a stage, and how many of them are kept, at most.
  int64_t most_chunks(int32_t stage) const {
    if (stage == 0) return ceil_div(a_.shape.keys, select_.chunk[0]);
    return most_kept(stage - 1) * (select_.chunk[stage - 1] / select_.chunk[stage]);
  }
  int64_t most_kept(int32_t stage) const {
    if (select_.kept) return select_.kept_room[stage];
    if (stage + 1 == select_.stages) return most_budget_;
    const int64_t keys = select_.keep[stage] > 0 ? select_.keep[stage] : most_budget_ * hip_keep_times(select_, stage);
    return std::min(most_chunks(stage), ceil_div(keys, select_.chunk[stage]));
  }

  int64_t seen_words() const { return select_.per_query ? a_.plan.blocks() * a_.words : 0; }

  void make_room() {
    switch (select_.selector) {
      case NA_SELECT_HIP:
        for (int32_t stage = 0; stage < select_.stages; stage++) {
          a_.scores_room = std::max({a_.scores_room, most_chunks(stage), most_kept(stage)});
          list_words_ = std::max(list_words_, 1 + most_kept(stage));
        }
        break;
      case NA_SELECT_BISECTION:
        a_.scores_room = 2 * most_budget_;
        list_words_ = 1 + 2 * most_budget_;
        break;
      default: a_.scores_room = a_.shape.blocks();
    }
    budgets_ = take(select_.out->heads);
    if (!even() && !exact()) {
      places_ = take(rows_ + 1);
      counts_ = take(rows_);
      entries_ = take(select_.out->entries->shape[0]);
    }
    const int64_t queries = int64_t{a_.heads} * a_.queries_room * a_.pitch;
    const int64_t each = select_.per_query ? std::min(a_.plan.query_tile, a_.plan.queries) : 1;
    const int64_t levels_room = a_.by_levels > 0 ? a_.scores_room : 0;
    const int64_t words = queries + each * (a_.scores_room + levels_room + 2 * list_words_) + seen_words();
    rows_together_ = std::clamp<int64_t>(kSelectBytes / (words * kWord), 1, rows_);
    const int64_t choosing = rows_together_ * each;
    queries_ = take(rows_together_ * queries);
    scores_ = take(choosing * a_.scores_room);
    levels_ = take(choosing * levels_room);
    if (shares()) cuts_ = take(choosing * int64_t{sizeof(Cut)} / kWord);
    for (int64_t& list : lists_) list = take(choosing * list_words_);
    seen_ = take(rows_together_ * seen_words());
  }

  void put_budgets() {
    a_.budgets = memory(budgets_);
    for (int64_t first = 0; first < select_.out->heads; first += kMostBudgets) {
      const int64_t count = std::min<int64_t>(select_.out->heads - first, kMostBudgets);
      BudgetArguments arguments{memory(budgets_ + first), static_cast<int32_t>(count), {}};
      std::transform(select_.budgets + first, select_.budgets + first + count, arguments.values,
                     [](int64_t budget) { return static_cast<int32_t>(budget); });
      launch(budgets_kernel, 1, 128, arguments);
    }
  }

  void place(const int32_t* counts, int32_t* places) {
    launch(places_kernel, 1, kPlaceThreads, a_, counts, places, static_cast<int32_t>(rows_));
  }

  // All steps for so many rows.
  void choose(int64_t rows) {
    switch (select_.selector) {
      case NA_SELECT_HIP: choose_by_stages(rows); break;
      case NA_SELECT_BISECTION: bisect(rows); break;
      default:
        a_.last = true;
        if (select_.per_query) {
          choose_by_queries(rows);
        } else {
          prepare(rows, pools_queries() ? select_.out->query_tile : 1);
          step(rows, ceil_div(a_.scores_room, 2));
        }
    }
  }

  // A row of the plan has room for its entries by itself, and so its number in `places` and `counts`; what chooses are
  // its queries.
  void choose_by_queries(int64_t rows) {
    const Selection of_plan = a_;
    a_.first_plan_row = a_.first_row;
    const auto bytes = static_cast<size_t>(rows * seen_words() * kWord);
    add([&] { return cudaMemsetAsync(a_.seen, 0, bytes, stream_); });
    a_.all_queries = true;
    prepare(rows, 1);
    score(own_scores_kernel, rows, ceil_div(a_.scores_room, 2));
    a_.all_queries = false;
    a_.shape = single_queries(a_.plan);
    a_.tiles = static_cast<int32_t>(a_.shape.tiles());
    a_.first_row = first_query_of(a_.plan, a_.first_plan_row);
    keep_best(first_query_of(a_.plan, a_.first_plan_row + rows) - a_.first_row);
    const na_tensor* const bitmaps = select_.out->bitmaps;  // none where no query may choose anything
    launch(own_queries_kernel, rows, kChooseThreads, a_, bitmaps ? static_cast<uint32_t*>(bitmaps->data) : nullptr);
    a_ = of_plan;
  }

  void choose_by_stages(int64_t rows) {
    const int32_t last = select_.stages - 1, from = select_.kept ? select_.refreshed_from : 0;
    if (from > last) {  // what the last stage has kept
      a_.from = list_of(last);
      a_.to = {};
      a_.chunk = exponent(select_.chunk[last]);
      a_.ratio = 0;
      a_.last = true;
      a_.together = 1;
      step(rows, most_kept(last));
      return;
    }
    for (int32_t stage = from; stage <= last; stage++) {
      a_.last = stage == last;
      a_.from = stage > 0 ? list_of(stage - 1) : Lists{};
      a_.to = a_.last && !select_.kept ? Lists{} : list_of(stage);
      a_.chunk = exponent(select_.chunk[stage]);
      a_.ratio = stage > 0 ? exponent(select_.chunk[stage - 1]) - a_.chunk : 0;
      a_.keep_keys = select_.keep[stage];
      a_.keep_times = hip_keep_times(select_, stage);
      if (a_.last || stage == from) prepare(rows, a_.last ? 1 : kHipTogether);
      step(rows, most_chunks(stage));
    }
  }

  // No node is longer than those of the smallest budget, and once all are blocks another round changes nothing.
  void bisect(int64_t rows) {
    prepare(rows, 1);
    a_.from = {};
    a_.last = false;
    int64_t longest = ceil_div(a_.shape.blocks(), least_budget_);
    for (int32_t round = 0; !a_.last; round++) {
      longest = ceil_div(longest, 2);
      a_.last = longest == 1;
      a_.to = a_.last ? Lists{} : work_list(round, most_budget_);
      step(rows, most_budget_);
      a_.from = a_.to;
    }
  }

  Lists work_list(int32_t number, int64_t room) const {
    return {memory(lists_[number % 2]), list_words_, static_cast<int32_t>(room)};
  }
  // Of the chunks that a stage has chosen.
  Lists list_of(int32_t stage) const {
    if (!select_.kept) return work_list(stage, most_kept(stage));
    const na_tensor& kept = *select_.kept;
    int64_t at = a_.first_row * kept.shape[1];
    for (int32_t before = 0; before < stage; before++) at += 1 + select_.kept_room[before];
    return {static_cast<int32_t*>(kept.data) + at, kept.shape[1], static_cast<int32_t>(select_.kept_room[stage])};
  }

  void prepare(int64_t rows, int32_t together) {
    a_.together = together;
    launch(queries_kernel, rows * a_.heads, 32 * kScoreWarps, a_);
  }

  // `units`: chunks or pairs of choices that a row has at most.
  void step(int64_t rows, int64_t units) {
    score(score_kernel, rows, units);
    keep_best(rows);
  }
  void score(void (*kernel)(Selection), int64_t rows, int64_t units) {
    a_.groups = static_cast<int32_t>(std::max<int64_t>(1, ceil_div(units, kScoreWarps)));
    launch(kernel, rows * a_.groups, 32 * kScoreWarps, a_);
  }
  void keep_best(int64_t rows) {
    if (a_.cuts) launch(shares_kernel, rows, kChooseThreads, a_);
    launch(choose_kernel, rows, kChooseThreads, a_);
    if (a_.by_levels > 0) launch(levels_kernel, rows, kChooseThreads, a_);
  }

  const na_select& select_;
  Selection a_;
  cudaStream_t stream_ = nullptr;
  cudaError_t status_ = cudaSuccess;
  int64_t launches_ = 0;  // so far
  bool counts_only_ = false;
  int64_t rows_ = 0, rows_together_ = 1;  // of the plan: all, and those of a launch
  int64_t most_budget_ = 0, least_budget_ = kMostBlocks;
  int64_t words_ = 0, list_words_ = 0;
  int64_t budgets_ = 0, places_ = 0, counts_ = 0, entries_ = 0, queries_ = 0, scores_ = 0, levels_ = 0, cuts_ = 0,
          seen_ = 0;
  int64_t lists_[2] = {};
};

int64_t select_workspace(const na_select& select) { return Selecting(select).bytes(); }

cudaError_t select(const na_select& select, cudaStream_t stream) { return Selecting(select).run(stream); }

int64_t select_launches(const na_select& select) { return Selecting(select).count(); }

}  // namespace na::cuda
