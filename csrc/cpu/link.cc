#include "cpu/link.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

#include "core/ceil_div.h"
#include "cpu/arena.h"
#include "cpu/choice.h"
#include "cpu/element.h"
#include "cpu/executor/problem.h"
#include "cpu/page_rows.h"

namespace na::cpu {
namespace {

constexpr int64_t kBlock = 64;     // sample queries of a task
constexpr int64_t kTile = 32;      // keys that they are compared with at once
constexpr int64_t kMostLists = 8;  // lists of a key that its links come from
constexpr int64_t kLinked = 1024;  // keys that a task links

using ScoreList = void (*)(const RowList&, const float*, float*);

ScoreList score_list_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return score_list_avx2;
    case Isa::kAvx512: return score_list_avx512;
    case Isa::kAmx: return score_list_amx;
#endif
    default: return score_list_generic;
  }
}

struct Sizes {
  explicit Sizes(const na_link& link)
      : kv_heads(link.k->shape[2]),
        queries(link.nearest->shape[2]),
        nearest(link.nearest->shape[3]),
        pitch(ceil_div(link.k->shape[3], kStrip) * kStrip),
        slots(1) {
    while (slots < 2 * kMostLists * nearest) slots *= 2;
    for (int64_t b = 0; b < link.k->shape[0]; b++) {
      if (link.graph.links[b]) keys = std::max(keys, link.graph.links[b]->shape[1] - 1);
    }
  }
  const int64_t kv_heads, queries, nearest, pitch;
  int64_t slots;     // of a table in which the keys of kMostLists lists leave half of the room
  int64_t keys = 0;  // of the longest sequence
};

// A thread's own.
struct Scratch {
  Scratch(const Sizes& sizes, void* memory) {
    Arena arena(memory);
    queries = arena.take<float>(kBlock * sizes.pitch);
    tile = arena.take<float>(kTile * sizes.pitch);
    scores = arena.take<float>(kTile);
    rows = arena.take<const char*>(kTile);
    heaps = arena.take<Choice>(kBlock * sizes.nearest);
    sizes_of = arena.take<int64_t>(kBlock);
    from = arena.take<int64_t>(kBlock);
    slots = arena.take<Choice>(sizes.slots);
    used = arena.take<int32_t>(kMostLists * sizes.nearest);
    weighed = arena.take<Choice>(kMostLists * sizes.nearest);
    bytes = static_cast<int64_t>(arena.used());
  }
  float *queries, *tile, *scores;
  const char** rows;
  Choice* heaps;             // [query][nearest]: the worst comes first
  int64_t *sizes_of, *from;  // [query]: of its heap, and the first key to compare it with
  Choice* slots;             // by key: its weight
  int32_t* used;             // slots that are
  Choice* weighed;
  int64_t bytes;
};

// Of a unit.
struct Lists {
  Lists(const Sizes& sizes, void* memory) {
    Arena arena(memory);
    ends = arena.take<int32_t>(sizes.keys + 1);
    members = arena.take<int32_t>(sizes.queries * sizes.nearest);
    bytes = static_cast<int64_t>(arena.used());
  }
  int32_t* ends;     // [key + 1]: where the lists of keys up to this one end
  int32_t* members;  // sample queries whose lists have a key, those that have it highest first
  int64_t bytes;
};

// A unit is a key head of a sequence. Tasks compare some of its sample queries each with its keys; once all lists are
// there, one of each unit finds out which lists a key is in; then tasks link some of its keys each. What a task writes
// depends on lists alone, so the graph is the same whichever threads make it, and how many.
class LinkJob final : public Job {
 public:
  LinkJob(const na_link& link, Isa isa)
      : link_(link), sizes_(link), keys_(*link.k, link.pages, 0), score_(score_list_of(isa)) {}

  int64_t prepare() override {
    int64_t ranges = 0;
    for (int64_t b = 0; b < link_.k->shape[0]; b++) {
      if (!link_.graph.links[b]) continue;
      const int64_t each = ceil_div(link_.graph.links[b]->shape[1] - 1, kLinked);
      sequences_.push_back({b, ranges, each});
      ranges += sizes_.kv_heads * each;
    }
    const int64_t units = static_cast<int64_t>(sequences_.size()) * sizes_.kv_heads;
    blocks_ = ceil_div(sizes_.queries, kBlock);
    compared_ = units * blocks_;
    inverted_ = compared_ + units;
    linked_ = inverted_ + ranges;
    return begun_ = compared_;
  }

  int64_t more() override {
    const int64_t end = begun_ == compared_ ? inverted_ : linked_;
    return end - std::exchange(begun_, end);
  }

  void run(int64_t task, void* scratch, const Cancel& cancel) override {
    const Scratch own(sizes_, scratch);
    if (task < compared_) {
      const Unit unit = unit_of(task / blocks_);
      compare(unit.b, unit.kv_head, task % blocks_ * kBlock, own, cancel);
    } else if (task < inverted_) {
      begin(unit_of(task - compared_), own, cancel);
    } else {
      link_range(task - inverted_, own);
    }
  }

 private:
  struct Sequence {
    int64_t b, first_range, ranges;  // of kLinked keys: the first of its first key head, and how many each has
  };
  struct Unit {
    int64_t b, kv_head, index;
  };

  Unit unit_of(int64_t index) const {
    return {sequences_[static_cast<size_t>(index / sizes_.kv_heads)].b, index % sizes_.kv_heads, index};
  }
  Lists lists_of(const Unit& unit) const {
    const Lists lists(sizes_, nullptr);
    return Lists(sizes_, static_cast<char*>(link_.workspace) + unit.index * lists.bytes);
  }
  int32_t* links_of(const Unit& unit) const {
    const na_tensor& links = *link_.graph.links[unit.b];
    return static_cast<int32_t*>(links.data) + unit.kv_head * links.shape[1] * link_.graph.degree;
  }
  int64_t keys_of(const Unit& unit) const { return link_.graph.links[unit.b]->shape[1] - 1; }

  int64_t list_at(int64_t b, int64_t kv_head, int64_t query) const {
    return ((b * sizes_.kv_heads + kv_head) * sizes_.queries + query) * sizes_.nearest;
  }
  int32_t* ids(int64_t at) const { return static_cast<int32_t*>(link_.nearest->data) + at; }
  float* products(int64_t at) const { return static_cast<float*>(link_.products->data) + at; }

  // Finds the best keys of sample queries from `first` on.
  void compare(int64_t b, int64_t kv_head, int64_t first, const Scratch& own, const Cancel& cancel) {
    const int64_t count = std::min(kBlock, sizes_.queries - first);
    const int64_t kept = link_.kept[b], end = link_.graph.links[b]->shape[1] - 1;
    int64_t key = end;
    for (int64_t i = 0; i < count; i++) {
      read_query(b, kv_head, first + i, own.queries + i * sizes_.pitch);
      read_list(list_at(b, kv_head, first + i), kept, i, own);
      key = std::min(key, own.from[i]);
    }
    while (key < end) {
      if (cancel.requested()) return;
      const int64_t tile = std::min(kTile, (key < kept ? kept : end) - key);
      for (int64_t t = 0; t < tile; t++) {
        float* const row = own.tile + t * sizes_.pitch;
        keys_.read(keys_.row(b, key + t, kv_head), row);
        own.rows[t] = reinterpret_cast<const char*>(row);
      }
      const RowList list{NA_FLOAT32, false, keys_.columns, tile, own.rows};
      for (int64_t i = 0; i < count; i++) {
        if (key < own.from[i]) continue;
        score_(list, own.queries + i * sizes_.pitch, own.scores);
        for (int64_t t = 0; t < tile; t++) offer(i, {static_cast<int32_t>(key + t), own.scores[t]}, own);
      }
      key += tile;
    }
    for (int64_t i = 0; i < count; i++) write_list(list_at(b, kv_head, first + i), i, own);
  }

  void read_query(int64_t b, int64_t kv_head, int64_t query, float* to) const {
    const na_tensor& q = *link_.queries;
    const int64_t group = q.shape[2] / sizes_.kv_heads;
    const int64_t at = b * q.stride[0] + query / group * q.stride[1] + (kv_head * group + query % group) * q.stride[2];
    for (int64_t d = 0; d < q.shape[3]; d++) to[d] = load_element(q, at + d);
    std::fill(to + q.shape[3], to + sizes_.pitch, 0.0f);
  }

  // A list that has lost a key is made again: which would come next is not known.
  void read_list(int64_t at, int64_t kept, int64_t i, const Scratch& own) const {
    Choice* const heap = own.heaps + i * sizes_.nearest;
    int64_t size = 0;
    bool whole = kept > 0;
    for (; whole && size < sizes_.nearest && ids(at)[size] >= 0; size++) {
      heap[size] = {ids(at)[size], products(at)[size]};
      whole = heap[size].key < kept;
    }
    own.sizes_of[i] = whole ? size : 0;
    own.from[i] = whole ? kept : 0;
    std::make_heap(heap, heap + own.sizes_of[i], before);
  }

  void offer(int64_t i, const Choice& choice, const Scratch& own) const {
    Choice* const heap = own.heaps + i * sizes_.nearest;
    int64_t& size = own.sizes_of[i];
    const bool full = size == sizes_.nearest;
    const float least = full ? heap[0].score : -std::numeric_limits<float>::infinity();
    if (!(choice.score > least)) return;  // keys come in ascending order: of equal ones those before stay
    if (full) std::pop_heap(heap, heap + size--, before);
    heap[size++] = choice;
    std::push_heap(heap, heap + size, before);
  }

  void write_list(int64_t at, int64_t i, const Scratch& own) const {
    Choice* const heap = own.heaps + i * sizes_.nearest;
    const int64_t size = own.sizes_of[i];
    std::sort_heap(heap, heap + size, before);
    for (int64_t n = 0; n < sizes_.nearest; n++) {
      ids(at)[n] = n < size ? heap[n].key : -1;
      products(at)[n] = n < size ? heap[n].score : 0;
    }
  }

  // Once all lists of a unit are there: which of them each key is in, and where searches begin.
  void begin(const Unit& unit, const Scratch& own, const Cancel& cancel) const {
    const int64_t degree = link_.graph.degree, keys = keys_of(unit);
    const Lists lists = lists_of(unit);
    if (!invert(unit.b, unit.kv_head, keys, lists, cancel)) return;
    int32_t* const row = links_of(unit) + keys * degree;
    std::fill_n(row, degree, -1);
    begin_at(keys, lists, own, row);
  }

  void link_range(int64_t range, const Scratch& own) const {
    const auto after = [](int64_t at, const Sequence& sequence) { return at < sequence.first_range; };
    const auto sequence = std::upper_bound(sequences_.begin(), sequences_.end(), range, after) - 1;
    const int64_t of_sequence = range - sequence->first_range;
    const Unit unit = unit_of((sequence - sequences_.begin()) * sizes_.kv_heads + of_sequence / sequence->ranges);
    const int64_t degree = link_.graph.degree, first = of_sequence % sequence->ranges * kLinked;
    const int64_t end = std::min(first + kLinked, keys_of(unit));
    const Lists lists = lists_of(unit);
    int32_t* const table = links_of(unit);
    std::fill_n(table + first * degree, (end - first) * degree, -1);
    for (int64_t s = 0; s < sizes_.slots; s++) own.slots[s].key = -1;
    for (int64_t key = first; key < end; key++) {
      choose(unit.b, unit.kv_head, key, lists, own, table + key * degree);
    }
  }

  // Finds out which lists each key is in; false when cancelled.
  bool invert(int64_t b, int64_t kv_head, int64_t keys, const Lists& lists, const Cancel& cancel) const {
    std::fill_n(lists.ends, keys + 1, 0);
    const int32_t* const all = ids(list_at(b, kv_head, 0));
    for (int64_t n = 0; n < sizes_.nearest; n++) {
      if (cancel.requested()) return false;
      for (int64_t i = n * sizes_.queries; i < (n + 1) * sizes_.queries; i++) {
        if (all[i] >= 0) lists.ends[all[i] + 1]++;
      }
    }
    for (int64_t key = 0; key < keys; key++) lists.ends[key + 1] += lists.ends[key];
    // ends[key] is where the lists of the key begin, and moves on to where they end.
    for (int64_t n = 0; n < sizes_.nearest; n++) {
      if (cancel.requested()) return false;
      for (int64_t query = 0; query < sizes_.queries; query++) {
        const int32_t key = all[query * sizes_.nearest + n];
        if (key >= 0) lists.members[lists.ends[key]++] = static_cast<int32_t>(query);
      }
    }
    return true;
  }

  // The keys that are with this one in most of its lists, those of about its rank counting more, so that the lowest of
  // a list are led to as much as the highest. Few lists, from those where it is highest to those where it is lowest:
  // links that all serve the same queries would lead nowhere else.
  void choose(int64_t b, int64_t kv_head, int64_t key, const Lists& lists, const Scratch& own, int32_t* row) const {
    const int64_t first = key == 0 ? 0 : lists.ends[key - 1], all = lists.ends[key] - first;
    const int64_t taken = std::min(all, kMostLists);
    int64_t used = 0;
    for (int64_t i = 0; i < taken; i++) {
      const int32_t* const list = ids(list_at(b, kv_head, lists.members[first + i * all / taken]));
      const int64_t rank = std::find(list, list + sizes_.nearest, key) - list;
      for (int64_t n = 0; n < sizes_.nearest && list[n] >= 0; n++) {
        if (n != rank) weigh(list[n], static_cast<float>(sizes_.nearest - std::abs(n - rank)), own, &used);
      }
    }
    for (int64_t i = 0; i < used; i++) {
      own.weighed[i] = own.slots[own.used[i]];
      own.slots[own.used[i]].key = -1;
    }
    const int64_t count = std::min(used, link_.graph.degree);
    std::partial_sort(own.weighed, own.weighed + count, own.weighed + used, before);
    for (int64_t i = 0; i < count; i++) row[i] = own.weighed[i].key;
  }

  void weigh(int32_t key, float weight, const Scratch& own, int64_t* used) const {
    const int64_t mask = sizes_.slots - 1;
    int64_t slot = static_cast<int64_t>(static_cast<uint32_t>(key) * 2654435761u >> 7) & mask;
    while (own.slots[slot].key >= 0 && own.slots[slot].key != key) slot = (slot + 1) & mask;
    if (own.slots[slot].key < 0) {
      own.slots[slot] = {key, 0};
      own.used[(*used)++] = static_cast<int32_t>(slot);
    }
    own.slots[slot].score += weight;
  }

  // Searches begin at the keys that are in most lists.
  void begin_at(int64_t keys, const Lists& lists, const Scratch& own, int32_t* row) const {
    Choice* const heap = own.weighed;
    const int64_t most = std::min(link_.graph.degree, kMostLists * sizes_.nearest);
    int64_t size = 0;
    for (int64_t key = 0; key < keys; key++) {
      const int64_t count = lists.ends[key] - (key == 0 ? 0 : lists.ends[key - 1]);
      const Choice choice{static_cast<int32_t>(key), static_cast<float>(count)};
      if (count == 0 || (size == most && !before(choice, heap[0]))) continue;
      if (size == most) std::pop_heap(heap, heap + size--, before);
      heap[size++] = choice;
      std::push_heap(heap, heap + size, before);
    }
    std::sort_heap(heap, heap + size, before);
    for (int64_t i = 0; i < size; i++) row[i] = heap[i].key;
  }

  const na_link& link_;
  const Sizes sizes_;
  const PageRows keys_;
  const ScoreList score_;
  std::vector<Sequence> sequences_;
  int64_t blocks_ = 0;                                // of sample queries
  int64_t compared_ = 0, inverted_ = 0, linked_ = 0;  // where the tasks of each kind end
  int64_t begun_ = 0;                                 // tasks that prepare() and more() have told of
};

}  // namespace

std::unique_ptr<Job> link_job(const na_link& link, Isa isa) { return std::make_unique<LinkJob>(link, isa); }

void link_bytes(const na_link& link, int64_t* workspace, size_t* scratch) {
  const Sizes sizes(link);
  int64_t units = 0;
  for (int64_t b = 0; b < link.k->shape[0]; b++) units += link.graph.links[b] ? sizes.kv_heads : 0;
  *workspace = units * Lists(sizes, nullptr).bytes;
  *scratch = static_cast<size_t>(Scratch(sizes, nullptr).bytes);
}

}  // namespace na::cpu
