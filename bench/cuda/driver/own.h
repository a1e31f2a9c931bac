// This library, through the table of its CUDA backend.
#pragma once

#include <memory>

#include "contestant.h"

namespace bench {

Status make_own(Backend& backend, const Problem& problem, std::unique_ptr<Contestant>* contestant);

}  // namespace bench
