#include "core/page_table.h"

#include <algorithm>

namespace na {
namespace {

constexpr int64_t kLeastTable = 16;

}  // namespace

Ref<PageTable> PageTable::with(Ref<PageTable> table, int64_t index, void* address) {
  if (!table || index < table->written_ || index >= table->room_) {
    Ref<PageTable> next(new PageTable(std::max(kLeastTable, 2 * index)));
    if (table) std::copy_n(table->entries_.get(), index, next->entries_.get());
    table = std::move(next);
  }
  table->entries_[static_cast<size_t>(index)] = address;
  table->written_ = index + 1;
  return table;
}

Status DeviceTables::reserve(const std::vector<int64_t>& lengths) {
  if (device_->host) return {};
  int64_t most = 1;
  for (int64_t length : lengths) most = std::max(most, pages_for(length));
  // What could not be written is no list of anything.
  const bool usable = tensor_ && !tensor_->storage->failure();
  if (usable && most < tensor_->view.shape[1]) return {};
  const int64_t room = std::max(kLeastTable, std::min(2 * most, pages_for(capacity_)));
  Ref<Tensor> larger;
  NA_TRY(Tensor::allocate(device_, NA_INT64, {static_cast<int64_t>(listed_.size()), 1 + room}, false, false, &larger));
  tensor_ = std::move(larger);
  std::fill(listed_.begin(), listed_.end(), Listed{});
  return {};
}

Operation* DeviceTables::make_list(const std::vector<int64_t>& lengths, const AddressOf& address_of) const {
  if (device_->host) return nullptr;
  const int64_t row = tensor_->view.stride[0];
  std::vector<int64_t> places, values;
  const auto say = [&](int64_t place, int64_t value) {
    places.push_back(place);
    values.push_back(value);
  };
  for (size_t b = 0; b < lengths.size(); b++) {
    const int64_t first = static_cast<int64_t>(b) * row;
    if (listed_[b].length != lengths[b]) say(first, lengths[b]);
    std::vector<int64_t> missing = listed_[b].forgotten;
    std::sort(missing.begin(), missing.end());
    missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
    for (int64_t i = listed_[b].pages; i < pages_for(lengths[b]); i++) missing.push_back(i);
    for (int64_t i : missing) say(first + 1 + i, number_of(address_of(b, i)));
  }
  return places.empty() ? nullptr : new PutOperation(tensor_.get(), std::move(places), std::move(values));
}

void DeviceTables::note_listed(const std::vector<int64_t>& lengths) {
  for (size_t b = 0; b < lengths.size(); b++) {
    listed_[b] = {lengths[b], std::max(listed_[b].pages, pages_for(lengths[b])), {}};
  }
}

void DeviceTables::forget(size_t sequence, int64_t page) {
  Listed& listed = listed_[sequence];
  if (page < listed.pages) listed.forgotten.push_back(page);
}

void DeviceTables::forget_from(size_t sequence, int64_t page) {
  Listed& listed = listed_[sequence];
  std::vector<int64_t>& gone = listed.forgotten;
  gone.erase(std::remove_if(gone.begin(), gone.end(), [&](int64_t i) { return i >= page; }), gone.end());
  listed.pages = std::min(listed.pages, page);
}

}  // namespace na
