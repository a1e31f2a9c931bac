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

Status read_list(const Napi::Value& value, const char* name, na_code code, Napi::Array* list) {
  constexpr uint32_t kMost = 65536;  // an array's length can be 2^32 - 1 without any entry
  if (!value.IsArray()) return error(code, "%s must be an array", name);
  *list = value.As<Napi::Array>();
  if (list->Length() <= kMost) return {};
  return error(code, "%s has %u entries; at most %u are possible", name, list->Length(), kMost);
}

Status read_integers(const Napi::Value& value, const char* name, na_code code, std::vector<int64_t>* result) {
  Napi::Array array;
  NA_TRY(read_list(value, name, code, &array));
  result->resize(array.Length());
  for (uint32_t i = 0; i < result->size(); i++) {
    const std::string entry = std::string(name) + "[" + std::to_string(i) + "]";
    NA_TRY(read_integer(array.Get(i), entry.c_str(), code, &(*result)[i]));
  }
  return {};
}

bool read_flag(const Napi::Value& value) {
  const Napi::Boolean flag = value.IsEmpty() ? Napi::Boolean() : value.ToBoolean();
  return !flag.IsEmpty() && flag.Value();
}

Status read_dtype(const Napi::Value& value, int32_t* result) {
  int64_t index = -1;
  NA_TRY(read_integer(value, "dtype", NA_ERR_DTYPE, &index));
  if (index < 0 || index >= kDtypeCount) return error(NA_ERR_DTYPE, "dtype is not known");
  *result = static_cast<int32_t>(index);
  return {};
}

Status read_geometry(const Napi::Value& value, PlanGeometry* result) {
  std::vector<int64_t> numbers;
  NA_TRY(read_integers(value, "geometry", NA_ERR_OPTION, &numbers));
  if (numbers.size() != 10) return error(NA_ERR_OPTION, "geometry must have 10 numbers");
  *result = {numbers[0], numbers[1],      numbers[2],      numbers[3], numbers[4],
             numbers[5], numbers[6] != 0, numbers[7] != 0, numbers[8], numbers[9] != 0};
  return {};
}

Status read_device(const Napi::Value& value, Device** result) {
  if (!value.IsString()) return error(NA_ERR_DEVICE, "device must be 'cpu', 'cuda' or 'cuda:N'");
  return find_device(value.As<Napi::String>().Utf8Value(), result);
}

Napi::Array numbers(Napi::Env env, const int64_t* values, size_t count) {
  Napi::Array array = Napi::Array::New(env, count);
  for (size_t i = 0; i < count; i++) array.Set(static_cast<uint32_t>(i), static_cast<double>(values[i]));
  return array;
}

}  // namespace na
