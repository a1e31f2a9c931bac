#include "cpu/append.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/dtype.h"
#include "cpu/element.h"

namespace na::cpu {
namespace {

constexpr int64_t kTaskTokens = 64;

// A row of int8, and the unit that it counts.
void quantise(const na_tensor& tensor, int64_t offset, char* to) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const int64_t columns = tensor.shape[3];
  float most = 0;
  bool finite = true;
  for (int64_t d = 0; d < columns; d++) {
    const float size = std::fabs(load_element(tensor, offset + d));
    finite &= size <= kLargest;
    most = std::max(most, size);
  }
  float unit = most / 127;
  if (unit < std::numeric_limits<float>::min()) unit = 0;
  if (unit * 127 > kLargest) unit = std::nextafter(unit, 0.0f);  // the largest element stays a number
  if (!finite) unit = std::numeric_limits<float>::quiet_NaN();
  for (int64_t d = 0; d < columns; d++) {
    const float steps = unit > 0 ? load_element(tensor, offset + d) / unit : 0.0f;
    to[d] = static_cast<char>(std::lrint(std::min(127.0f, std::max(-127.0f, steps))));
  }
  std::memcpy(to + columns, &unit, NA_UNIT_BYTES);
}

// The tokens of one tensor of a batch entry, as the pages want them: heads side by side, and head after head.
class Source {
 public:
  Source(const na_tensor& tensor, bool int8)
      : tensor_(tensor),
        int8_(int8),
        data_(static_cast<const char*>(tensor.data)),
        element_(dtype_size(tensor.dtype)),
        batch_(tensor.stride[0] * element_),
        token_(tensor.stride[1] * element_),
        head_(tensor.stride[2] * element_),
        heads_(tensor.shape[2]),
        head_bytes_(page_row_bytes(tensor.dtype, int8, tensor.shape[3])) {}

  int64_t token_bytes() const { return heads_ * head_bytes_; }

  void copy(int64_t batch, int64_t token, int64_t count, char* to) const {
    if (int8_) {
      for (int64_t t = token; t < token + count; t++) {
        const int64_t offset = batch * tensor_.stride[0] + t * tensor_.stride[1];
        for (int64_t h = 0; h < heads_; h++, to += head_bytes_) quantise(tensor_, offset + h * tensor_.stride[2], to);
      }
      return;
    }
    const char* from = data_ + batch * batch_ + token * token_;
    const bool whole = heads_ == 1 || head_ == head_bytes_;
    if (whole && (count == 1 || token_ == token_bytes())) {
      std::memcpy(to, from, static_cast<size_t>(count * token_bytes()));
      return;
    }
    for (int64_t t = 0; t < count; t++, from += token_) {
      for (int64_t h = 0; h < heads_; h++, to += head_bytes_) {
        std::memcpy(to, from + h * head_, static_cast<size_t>(head_bytes_));
      }
    }
  }

 private:
  const na_tensor& tensor_;
  const bool int8_;
  const char* const data_;
  const int64_t element_, batch_, token_, head_, heads_, head_bytes_;
};

class AppendJob final : public Job {
 public:
  explicit AppendJob(const na_append& append)
      : append_(append), k_(*append.k, append.pages.int8 != 0), v_(*append.v, append.pages.int8 != 0) {}

  int64_t prepare() override {
    for (int64_t i = 0; i < append_.copy_count; i++) {
      const na_page_copy& copy = append_.copies[i];
      std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
    }
    tasks_each_ = (append_.k->shape[1] + kTaskTokens - 1) / kTaskTokens;
    return append_.k->shape[0] * tasks_each_;
  }

  void run(int64_t task, void*, const Cancel&) override {
    const na_pages& pages = append_.pages;
    const int64_t batch = task / tasks_each_;
    int64_t token = task % tasks_each_ * kTaskTokens;
    const int64_t end = std::min(token + kTaskTokens, append_.counts[batch]);
    while (token < end) {
      const int64_t at = pages.lengths[batch] + token, slot = at % pages.page_tokens;
      const int64_t count = std::min(end - token, pages.page_tokens - slot);
      char* const page = static_cast<char*>(pages.tables[batch][at / pages.page_tokens]);
      k_.copy(batch, token, count, page + slot * k_.token_bytes());
      v_.copy(batch, token, count, page + pages.value_offset + slot * v_.token_bytes());
      token += count;
    }
  }

 private:
  const na_append& append_;
  const Source k_, v_;
  int64_t tasks_each_ = 0;
};

}  // namespace

std::unique_ptr<Job> append_job(const na_append& append) { return std::make_unique<AppendJob>(append); }

}  // namespace na::cpu
