// Somebody else's attention, through a baseline library (bench/cuda/baseline.h).
#pragma once

#include <memory>

#include "../baseline.h"
#include "contestant.h"
#include "runtime.h"

namespace bench {

class Baseline {
 public:
  // `calls`: the library that the baseline loads, or null.
  Status open(const char* path, const char* calls, int64_t* version);
  bool is_open() const { return open_; }

  decltype(&::baseline_open) baseline_open = nullptr;
  decltype(&::baseline_version) baseline_version = nullptr;
  decltype(&::baseline_plan_create) baseline_plan_create = nullptr;
  decltype(&::baseline_plan_execute) baseline_plan_execute = nullptr;
  decltype(&::baseline_plan_destroy) baseline_plan_destroy = nullptr;

 private:
  Library library_;
  bool open_ = false;
};

Status make_baseline(const Baseline& baseline, const Runtime& runtime, Backend& backend, const Problem& problem,
                     std::unique_ptr<Contestant>* contestant);

}  // namespace bench
