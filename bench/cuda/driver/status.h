// Errors of the driver: the first sentence said is what driver_error() gives.
#pragma once

#include <string>

namespace bench {

using Status = std::string;  // empty: it worked

}  // namespace bench
