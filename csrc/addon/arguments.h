// Reads arguments from JavaScript. The TypeScript layer has already given them their form; what does not have it
// is refused here too, so that no call can crash the process.
#pragma once

#include <vector>

#include "addon/napi_setup.h"
#include "core/tensor.h"

namespace na {

Status read_integer(const Napi::Value& value, const char* name, na_code code, int64_t* result);
Status read_integers(const Napi::Value& value, const char* name, na_code code, std::vector<int64_t>* result);
inline Status read_shape(const Napi::Value& value, Shape* result) {
  return read_integers(value, "shape", NA_ERR_SHAPE, result);
}
Status read_dtype(const Napi::Value& value, int32_t* result);
Status read_device(const Napi::Value& value, Device** result);

}  // namespace na
