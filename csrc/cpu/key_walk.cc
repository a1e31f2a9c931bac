#include "cpu/key_walk.h"

#include <algorithm>

namespace na::cpu {
namespace {

constexpr int kMostRow = 258;  // keys that one leads to: the most links, and its neighbours

static_assert(sizeof(Choice) == 2 * sizeof(int32_t), "numbers are kept in place of one");

bool take_bit(uint64_t* bits, int64_t at) {
  const uint64_t bit = uint64_t{1} << (at & 63);
  const bool taken = (bits[at >> 6] & bit) == 0;
  bits[at >> 6] |= bit;
  return taken;
}

// Heaps: of what is in view the worst comes first, of what to go on from the best.
constexpr auto worse = [](const Choice& a, const Choice& b) { return before(b, a); };

}  // namespace

KeyWalk::Layout::Layout(const na_retrieve& retrieve) {
  int64_t keys = 0;
  for (int64_t b = 0; b < retrieve.q->shape[0]; b++) keys = std::max(keys, retrieve.graph->counts[b]);
  words = (keys + 63) / 64;
  width = std::min(std::max(retrieve.effort, retrieve.top), keys);
  group = retrieve.q->shape[2] / retrieve.k->shape[2];
}

KeyWalk::KeyWalk(const na_retrieve& retrieve, const PageRows& keys, ScoreList score, int64_t batch, int64_t kv_head,
                 void* memory)
    : retrieve_(retrieve), keys_(keys), score_(score), batch_(batch), kv_head_(kv_head), layout_(retrieve) {
  met_ = static_cast<uint64_t*>(memory);
  gone_ = met_ + layout_.words;
  choices_ = reinterpret_cast<Choice*>(gone_ + layout_.words);
}

void KeyWalk::run(const float* const* queries, int64_t first, int64_t end, const Cancel& cancel) {
  queries_ = queries;
  first_ = first;
  end_ = end;
  std::fill_n(met_, 2 * layout_.words, 0);
  for (int64_t query = 0; query < layout_.group; query++) std::fill_n(sizes(query), 2, 0);
  const na_tensor& links = *retrieve_.graph->links[batch_];
  const int64_t degree = retrieve_.graph->degree, rows = links.shape[1];
  const int32_t* const table = static_cast<const int32_t*>(links.data) + kv_head_ * rows * degree;
  meet(table + (rows - 1) * degree, first, first);
  for (bool going = true; going;) {
    going = false;
    for (int64_t query = 0; query < layout_.group; query++) {
      if (cancel.requested()) return;
      int32_t key;
      if (!next(query, &key)) continue;
      going = true;
      meet(table + key * degree, int64_t{key} - 1, int64_t{key} + 1);
    }
  }
}

// The best key in view of the query that nobody has gone on from, which somebody then has.
bool KeyWalk::next(int64_t query, int32_t* key) {
  int32_t* const size = sizes(query);
  while (size[1] > 0) {
    const Choice choice = open(query)[0];
    if (size[0] == layout_.width && before(best(query)[0], choice)) {
      size[1] = 0;  // this one and all that come after it are out of view
      return false;
    }
    std::pop_heap(open(query), open(query) + size[1]--, worse);
    if (!take_bit(gone_, choice.key)) continue;
    *key = choice.key;
    return true;
  }
  return false;
}

// Scores the keys that a row leads to, and two more, for all queries, unless they were met before.
void KeyWalk::meet(const int32_t* row, int64_t before_key, int64_t after_key) {
  int32_t keys[kMostRow];
  const char* rows[kMostRow];
  float scores[kMostRow];
  int64_t count = 0;
  const auto add = [&](int64_t key) {
    if (key < first_ || key >= end_ || !take_bit(met_, key)) return;
    keys[count] = static_cast<int32_t>(key);
    rows[count++] = keys_.row(batch_, key, kv_head_);
  };
  add(before_key);
  add(after_key);
  for (int64_t i = 0; i < retrieve_.graph->degree && row[i] >= 0; i++) add(row[i]);
  if (count == 0) return;
  scored_ += count;
  const RowList list{keys_.dtype, keys_.int8, keys_.columns, count, rows};
  for (int64_t query = 0; query < layout_.group; query++) {
    score_(list, queries_[query], scores);
    for (int64_t i = 0; i < count; i++) offer(query, {keys[i], scores[i]});
  }
}

void KeyWalk::offer(int64_t query, const Choice& choice) {
  const int64_t width = layout_.width;
  int32_t* const size = sizes(query);
  Choice *const in_view = best(query), *const to_go = open(query);
  if (size[0] == width) {
    if (!before(choice, in_view[0])) return;
    std::pop_heap(in_view, in_view + size[0]--, before);
  }
  in_view[size[0]++] = choice;
  std::push_heap(in_view, in_view + size[0], before);
  if (size[1] == 2 * width) {
    // At most `width` of them are still in view.
    const auto lost = [&](const Choice& other) { return before(in_view[0], other); };
    size[1] = static_cast<int32_t>(std::remove_if(to_go, to_go + size[1], lost) - to_go);
    std::make_heap(to_go, to_go + size[1], worse);
  }
  to_go[size[1]++] = choice;
  std::push_heap(to_go, to_go + size[1], worse);
}

}  // namespace na::cpu
