#include "core/convert.h"

#include <cstring>

#include "core/narrow.h"

namespace na {
namespace {

template <class From, class To>
void row(const void* source, int64_t source_stride, void* target, int64_t target_stride, int64_t count) {
  const From* from = static_cast<const From*>(source);
  To* to = static_cast<To*>(target);
  if constexpr (std::is_same_v<From, To>) {
    if (source_stride == 1 && target_stride == 1) {
      memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
    } else {
      for (int64_t i = 0; i < count; i++) to[i * target_stride] = from[i * source_stride];
    }
  } else {
    for (int64_t i = 0; i < count; i++) to[i * target_stride] = narrow<To>(widen(from[i * source_stride]));
  }
}

}  // namespace

ConvertRow convert_row(int32_t source, int32_t target) {
  return with_type(source, [=](auto* from) {
    return with_type(target, [=](auto* to) -> ConvertRow {
      return row<std::remove_pointer_t<decltype(from)>, std::remove_pointer_t<decltype(to)>>;
    });
  });
}

}  // namespace na
