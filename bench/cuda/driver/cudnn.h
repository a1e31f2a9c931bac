// cuDNN, through the baseline library (bench/cudnn).
#pragma once

#include <memory>

#include "../../cudnn/baseline.h"
#include "contestant.h"
#include "runtime.h"

namespace bench {

class Cudnn {
 public:
  Status open(const char* baseline, const char* cudnn, int64_t* version);
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

Status make_cudnn(const Cudnn& cudnn, const Runtime& runtime, Backend& backend, const Problem& problem,
                  std::unique_ptr<Contestant>* contestant);

}  // namespace bench
