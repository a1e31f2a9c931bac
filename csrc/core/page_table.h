// Where the pages of sequences are, for operations that are queued: in memory of the host, and in that of a device.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/operation.h"

namespace na {

// Addresses of the pages of a sequence, which queued operations read. What they may read does not change: an entry is
// written once, and whoever needs another value makes a table of his own.
class PageTable : public RefCounted {
 public:
  explicit PageTable(int64_t room) : room_(room), entries_(new void*[static_cast<size_t>(room)]) {}

  // The table with that entry, which is this one if it can be. Entries from 0 to index - 1 are there.
  static Ref<PageTable> with(Ref<PageTable> table, int64_t index, void* address);
  void* const* entries() const { return entries_.get(); }

 private:
  const int64_t room_;
  int64_t written_ = 0;
  const std::unique_ptr<void*[]> entries_;
};

// An address as tables on a device hold it.
inline int64_t number_of(const void* address) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(address)); }

// Writes addresses, and what else tables hold, to a table on a device.
class PutOperation final : public Operation {
 public:
  PutOperation(Tensor* to, std::vector<int64_t> places, std::vector<int64_t> values)
      : Operation(NA_OP_PUT),
        places_(std::move(places)),
        values_(std::move(values)),
        put_{&to->view, places_.data(), values_.data(), static_cast<int64_t>(places_.size())} {
    args = &put_;
    retain_tensors();
  }

  void each_tensor(Visit visit, void* context) const override { visit(context, Tensor::of(put_.to), true); }
  // Only graphs clone, and none has a list.
  Operation* clone() const override { return nullptr; }

 private:
  const std::vector<int64_t> places_, values_;
  const na_put put_;
};

// The tables of some sequences where kernels of a device read them: of each its length, and then its pages. They are
// brought up to date in three steps: room for them, which may be refused; the operation that writes what is missing;
// and, once that is enqueued, a note of it. Devices of the host need none.
class DeviceTables {
 public:
  // Lengths count what `each` of are in a page, `capacity` of them at most.
  DeviceTables(Device* device, int64_t batch, int64_t each, int64_t capacity)
      : device_(device), each_(each), capacity_(capacity), listed_(static_cast<size_t>(batch)) {}
  DeviceTables(DeviceTables&&) = default;
  DeviceTables& operator=(DeviceTables&&) = default;

  Status reserve(const std::vector<int64_t>& lengths);
  // Null where nothing is missing. Asks for the addresses of pages that are not listed.
  using AddressOf = std::function<const void*(size_t sequence, int64_t page)>;
  Operation* make_list(const std::vector<int64_t>& lengths, const AddressOf& address_of) const;
  void note_listed(const std::vector<int64_t>& lengths);
  // A page of a sequence is, or will be, another than the one that was listed.
  void forget(size_t sequence, int64_t page);
  // So are all from this one on.
  void forget_from(size_t sequence, int64_t page);

  // int64 [batch, room + 1]; null before reserve(), and where there are none.
  const Ref<Tensor>& tensor() const { return tensor_; }
  int64_t bytes() const { return tensor_ ? tensor_->storage->bytes : 0; }

 private:
  struct Listed {
    int64_t length = -1, pages = 0;
    std::vector<int64_t> forgotten;  // of these pages, in any order
  };
  int64_t pages_for(int64_t length) const { return (length + each_ - 1) / each_; }

  Device* device_;
  int64_t each_, capacity_;
  std::vector<Listed> listed_;
  Ref<Tensor> tensor_;
};

}  // namespace na
