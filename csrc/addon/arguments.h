// Reads arguments from JavaScript. The TypeScript layer has already given them their form; what does not have it
// is refused here too, so that no call can crash the process. A value is empty when reading it threw; what was thrown
// stays pending and is what the caller gets (see refuse()).
#pragma once

#include <vector>

#include "addon/napi_setup.h"
#include "core/sparse_plan.h"

namespace na {

Status read_integer(const Napi::Value& value, const char* name, na_code code, int64_t* result);
// An array whose length can be relied on to be reasonable, but not to stay: reading an entry may run a program's
// getter.
Status read_list(const Napi::Value& value, const char* name, na_code code, Napi::Array* list);
Status read_integers(const Napi::Value& value, const char* name, na_code code, std::vector<int64_t>* result);
inline Status read_shape(const Napi::Value& value, Shape* result) {
  return read_integers(value, "shape", NA_ERR_SHAPE, result);
}
// False also where nothing can be read any more, because the environment is ending: the empty Napi::Boolean that
// ToBoolean() gives then ends the process when it is asked for its value.
bool read_flag(const Napi::Value& value);
Status read_dtype(const Napi::Value& value, int32_t* result);
// [batch, heads, queries, keys, queryTile, keyBlock, causal, estimate]
Status read_geometry(const Napi::Value& value, PlanGeometry* result);
Status read_device(const Napi::Value& value, Device** result);

// The way back: an array of numbers.
Napi::Array numbers(Napi::Env env, const int64_t* values, size_t count);

}  // namespace na
