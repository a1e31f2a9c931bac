#include "addon/arguments.h"

#include <cmath>

namespace na {

Status read_integer(const Napi::Value& value, const char* name, na_code code, int64_t* result) {
  constexpr double kLargest = 9007199254740991;  // Number.MAX_SAFE_INTEGER
  if (!value.IsNumber()) return error(code, "%s must be an integer", name);
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(std::fabs(number) <= kLargest) || number != std::floor(number)) {
    return error(code, "%s is %g; it must be an integer", name, number);
  }
  *result = static_cast<int64_t>(number);
  return {};
}

Status read_integers(const Napi::Value& value, const char* name, na_code code, std::vector<int64_t>* result) {
  if (!value.IsArray()) return error(code, "%s must be an array of integers", name);
  const auto array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  if (length > 1024) return error(code, "%s has %u entries; at most 1024 are possible", name, length);
  result->resize(length);
  for (uint32_t i = 0; i < length; i++) {
    const std::string entry = std::string(name) + "[" + std::to_string(i) + "]";
    NA_TRY(read_integer(array.Get(i), entry.c_str(), code, &(*result)[i]));
  }
  return {};
}

Status read_dtype(const Napi::Value& value, int32_t* result) {
  int64_t index = -1;
  NA_TRY(read_integer(value, "dtype", NA_ERR_DTYPE, &index));
  if (index < 0 || index >= kDtypeCount) return error(NA_ERR_DTYPE, "dtype is not known");
  *result = static_cast<int32_t>(index);
  return {};
}

Status read_device(const Napi::Value& value, Device** result) {
  if (!value.IsString()) return error(NA_ERR_DEVICE, "device must be 'cpu', 'cuda' or 'cuda:N'");
  return find_device(value.As<Napi::String>().Utf8Value(), result);
}

}  // namespace na
