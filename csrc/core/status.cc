#include "core/status.h"

#include <cstdarg>
#include <cstdio>

namespace na {

Status error(na_code code, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  return {code, text};
}

const char* code_name(na_code code) {
  switch (code) {
    case NA_OK: return "OK";
    case NA_ERR_SHAPE: return "ERR_SHAPE";
    case NA_ERR_DTYPE: return "ERR_DTYPE";
    case NA_ERR_DEVICE: return "ERR_DEVICE";
    case NA_ERR_OPTION: return "ERR_OPTION";
    case NA_ERR_DISPOSED: return "ERR_DISPOSED";
    case NA_ERR_PENDING: return "ERR_PENDING";
    case NA_ERR_OUT_OF_MEMORY: return "ERR_OUT_OF_MEMORY";
    case NA_ERR_BACKEND: return "ERR_BACKEND";
    case NA_ERR_CUDA: return "ERR_CUDA";
  }
  return "ERR_BACKEND";
}

std::string bytes_text(int64_t bytes) {
  static const char* const kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 5) value /= 1024, unit++;
  char text[64];
  snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

}  // namespace na
