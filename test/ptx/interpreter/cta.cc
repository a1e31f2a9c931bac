#include <algorithm>

#include "diagnostics.h"
#include "machine.h"

namespace ptx {
namespace {

constexpr uint8_t kPoison = 0xff;
constexpr uint64_t kGranule = 16;            // of the check of proxies
constexpr uint64_t kMostShared = 227 << 10;  // bytes that a block may have

}  // namespace

void complete(Async& work) {
  if (work.done) return;
  work.done = true;
  work.run();
}

void AsyncGroups::wait(size_t pending) {
  while (groups_.size() > pending) {
    for (const AsyncPtr& work : groups_.front()) complete(*work);
    groups_.pop_front();
  }
}

void AsyncGroups::finish() {
  wait(0);
  for (const AsyncPtr& work : open_) complete(*work);
  open_.clear();
}

Cta::Cta(const Launch& launch, const uint32_t index[3], std::deque<RegisterFile>& files)
    : launch_(launch),
      index_{index[0], index[1], index[2]},
      threads_(launch.block[0] * launch.block[1] * launch.block[2]) {
  const Function& function = launch.module->functions[static_cast<size_t>(launch.function)];
  const uint64_t shared = function.static_shared + launch.dynamic_shared;
  if (shared > kMostShared) {
    throw Fault("kernel " + function.name + ": " + std::to_string(shared) + " bytes of shared memory are more than " +
                std::to_string(kMostShared));
  }
  shared_.assign(shared, kPoison);
  unfenced_by_.assign(shared / kGranule + 1, 0);
  unfenced_at_.assign(shared / kGranule + 1, nullptr);
  parameters_.assign(launch.parameters, launch.parameters + function.parameter_bytes);
  const uint32_t warps = (threads_ + kLanes - 1) / kLanes;
  warpgroups_.resize((warps + 3) / 4);
  random_.seed(launch.schedule.seed * 0x9e3779b97f4a7c15 + index[0] + (uint64_t{index[1]} << 20));
  if (files.size() < warps) files.resize(warps);
  for (uint32_t w = 0; w < warps; w++) {
    const uint32_t left = threads_ - w * kLanes;
    const uint32_t lanes = left >= kLanes ? ~uint32_t{0} : (uint32_t{1} << left) - 1;
    warps_.push_back(std::make_unique<Warp>(*this, static_cast<int>(w), lanes, files[w]));
  }
}

uint32_t Cta::live_threads() const {
  uint32_t count = 0;
  for (const auto& warp : warps_) count += static_cast<uint32_t>(__builtin_popcount(warp->live()));
  return count;
}

uint8_t* Cta::shared(const Warp* warp, const Instruction& by, int lane, uint64_t address, uint64_t bytes,
                     uint64_t align, Access access, Proxy proxy) {
  const auto fault = [&](const std::string& what) {
    throw Fault(place(by) + "  -- " + what + " (" + thread_name(*this, warp ? warp->index() : -1, lane) + ")");
  };
  if (address % align != 0) fault("misaligned shared address " + hexadecimal(address));
  const uint64_t offset = address - kSharedBase;
  if (address < kSharedBase || offset > shared_.size() || bytes > shared_.size() - offset) {
    fault("shared address " + hexadecimal(address) + " is out of bounds: the block has " +
          std::to_string(shared_.size()) + " bytes from " + hexadecimal(kSharedBase));
  }
  if (access != Access::kRead) progress_++;
  const uint64_t first = offset / kGranule, last = bytes == 0 ? first : (offset + bytes - 1) / kGranule;
  for (uint64_t g = first; g <= last; g++) {
    if (proxy == Proxy::kGeneric) {
      if (access == Access::kRead) break;
      unfenced_by_[g] = static_cast<uint16_t>(warp ? warp->index() + 1 : 0);
      unfenced_at_[g] = &by;
    } else if (access == Access::kWrite) {
      unfenced_by_[g] = 0;
    } else if (unfenced_by_[g] != 0) {
      fault("missing fence.proxy.async: reads shared address " + hexadecimal(kSharedBase + g * kGranule) +
            ", which warp " + std::to_string(unfenced_by_[g] - 1) + " wrote at " + place(*unfenced_at_[g]));
    }
  }
  return shared_.data() + offset;
}

void Cta::fence_proxy(const Warp& warp) {
  const auto mark = static_cast<uint16_t>(warp.index() + 1);
  std::replace(unfenced_by_.begin(), unfenced_by_.end(), mark, uint16_t{0});
}

AsyncPtr Cta::start(const Instruction& by, std::function<void()> run) {
  auto work = std::make_shared<Async>(Async{std::move(run), &by, false});
  const Asynchrony asynchrony = launch_.schedule.asynchrony;
  if (asynchrony == Asynchrony::kImmediate) {
    complete(*work);
  } else {
    floating_.push_back(work);  // for kRandom the scheduler decides when
  }
  return work;
}

AsyncPtr Cta::defer(const Instruction& by, std::function<void()> run) {
  auto work = std::make_shared<Async>(Async{std::move(run), &by, false});
  const Asynchrony asynchrony = launch_.schedule.asynchrony;
  if (asynchrony == Asynchrony::kImmediate || (asynchrony == Asynchrony::kRandom && random_() % 2 == 0)) {
    complete(*work);
  }
  return work;
}

}  // namespace ptx
