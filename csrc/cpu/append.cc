#include "cpu/append.h"

#include <algorithm>
#include <cstring>

#include "core/dtype.h"

namespace na::cpu {
namespace {

constexpr int64_t kTaskTokens = 64;

// The tokens of one tensor of a batch entry, as the pages want them: heads side by side, and head after head.
class Source {
 public:
  Source(const na_tensor& tensor)
      : data_(static_cast<const char*>(tensor.data)),
        element_(dtype_size(tensor.dtype)),
        batch_(tensor.stride[0] * element_),
        token_(tensor.stride[1] * element_),
        head_(tensor.stride[2] * element_),
        heads_(tensor.shape[2]),
        head_bytes_(tensor.shape[3] * element_) {}

  int64_t token_bytes() const { return heads_ * head_bytes_; }

  void copy(int64_t batch, int64_t token, int64_t count, char* to) const {
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
  const char* const data_;
  const int64_t element_, batch_, token_, head_, heads_, head_bytes_;
};

class AppendJob final : public Job {
 public:
  explicit AppendJob(const na_append& append) : append_(append), k_(*append.k), v_(*append.v) {}

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
