// The outcome of a call that can be refused: a code of the contract and a sentence for the user.
#pragma once

#include <string>

#include "core/backend.h"

namespace na {

struct Status {
  na_code code = NA_OK;
  std::string message;

  bool ok() const { return code == NA_OK; }
  static Status from(const na_error& error) { return {static_cast<na_code>(error.code), error.message}; }
};

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
Status
error(na_code code, const char* format, ...);

const char* code_name(na_code code);  // "ERR_SHAPE" ...

// "1.5 GiB"
std::string bytes_text(int64_t bytes);

// For functions that return Status: hand a refusal on to the caller.
#define NA_TRY(expression)                   \
  do {                                       \
    ::na::Status na_status_ = (expression);  \
    if (!na_status_.ok()) return na_status_; \
  } while (0)

}  // namespace na
