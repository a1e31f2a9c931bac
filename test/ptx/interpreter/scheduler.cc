#include "scheduler.h"

#include <algorithm>

#include "diagnostics.h"

namespace ptx {
namespace {

constexpr uint64_t kLongTurn = 1024;
// Instructions that a group executes while others of its warp could, before these have theirs. Many, since groups that
// run in another order than that of their addresses do not meet.
constexpr int kPatience = 4096;
// Warp instructions after which a block is taken to be in an endless loop.
constexpr uint64_t kMostInstructions = 400'000'000;

bool same_place(const LaneGroup& a, const LaneGroup& b) { return a.pc == b.pc && a.return_to == b.return_to; }

// Whether `a` is to run before `b`.
bool before(const LaneGroup& a, const LaneGroup& b) {
  const bool had_its_share = a.executed >= kPatience;
  if (had_its_share != (b.executed >= kPatience)) return !had_its_share;
  if (a.return_to.size() != b.return_to.size()) return a.return_to.size() > b.return_to.size();
  return a.pc < b.pc;
}

}  // namespace

void Scheduler::run() {
  for (const auto& warp : cta_.warps()) order_.push_back(warp.get());
  const auto done = [](const Warp* warp) { return warp->live() == 0; };
  for (;;) {
    order_.erase(std::remove_if(order_.begin(), order_.end(), done), order_.end());
    if (order_.empty()) break;
    if (!round()) {
      if (cta_.floating_.empty()) throw Fault(deadlock_report(cta_));
      floating_work();
      stuck_.clear();
    }
    if (executed_ > kMostInstructions) {
      throw Fault("a block does not end: " + std::to_string(executed_) + " warp instructions" + places(cta_));
    }
  }
  finish();
}

bool Scheduler::round() {
  static constexpr uint64_t kTurns[] = {1, 3, 17, 64, 256};
  const Schedule& schedule = cta_.launch().schedule;
  if (schedule.seed != 0) std::shuffle(order_.begin(), order_.end(), cta_.random());
  for (Warp* warp : order_) {
    switch (turn(*warp, schedule.seed == 0 ? kLongTurn : kTurns[cta_.random()() % std::size(kTurns)])) {
      case Turn::kAdvanced: stuck_.clear(); break;
      case Turn::kStuck: stuck_.insert(warp); break;
      case Turn::kUndecided: break;
    }
    if (schedule.asynchrony == Asynchrony::kRandom && !cta_.floating_.empty() && cta_.random()() % 4 == 0) {
      floating_work();
      stuck_.clear();
    }
  }
  return stuck_.size() < order_.size();
}

Scheduler::Turn Scheduler::turn(Warp& warp, uint64_t length) {
  for (LaneGroup& group : warp.groups_) group.waiting = false;
  warp.registers_[kClock].fill(static_cast<uint32_t>(executed_));
  warp.registers_[kClockHi].fill(executed_ >> 32);
  warp.registers_[kClock64].fill(executed_);
  warp.registers_[kGlobaltimer].fill(executed_);
  warp.registers_[kGlobaltimerLo].fill(static_cast<uint32_t>(executed_));
  warp.registers_[kGlobaltimerHi].fill(executed_ >> 32);
  advanced_ = false;
  const uint64_t progress = cta_.progress_;
  uint64_t left = length;
  LaneGroup* group = nullptr;
  while (left > 0 && (group = choose(warp)) != nullptr) {
    warp.current_ = group;
    if (!execute(warp, *group, left)) group->waiting = true;
  }
  executed_ += length - left;
  if (advanced_ || cta_.progress_ != progress || warp.live() == 0) return Turn::kAdvanced;
  return group ? Turn::kUndecided : Turn::kStuck;
}

LaneGroup* Scheduler::choose(Warp& warp) {
  LaneGroup* best = nullptr;
  for (auto group = warp.groups_.begin(); group != warp.groups_.end();) {
    bool merged = group->lanes == 0;
    for (auto other = warp.groups_.begin(); other != group && !merged; ++other) {
      if (!same_place(*other, *group)) continue;
      // Lanes that have come to where others wait: together they may be complete.
      other->waiting = other->waiting && group->waiting;
      other->lanes |= group->lanes;
      other->yielded_at = -1;
      other->executed = std::max(other->executed, group->executed);
      merged = true;
      if (!other->waiting && (!best || before(*other, *best))) best = &*other;
    }
    if (merged) {
      group = warp.groups_.erase(group);
      continue;
    }
    if (!group->waiting && (!best || before(*group, *best))) best = &*group;
    ++group;
  }
  if (best && best->executed >= kPatience) {
    for (LaneGroup& group : warp.groups_) group.executed = 0;
  }
  return best;
}

bool Scheduler::execute(Warp& warp, LaneGroup& group, uint64_t& left) {
  do {
    const Instruction& instruction = code_[static_cast<size_t>(group.pc)];
    const int at = group.pc;
    uint32_t lanes = group.lanes;
    left--;
    if (instruction.guard >= 0) {
      const uint32_t holds = warp.predicates_[static_cast<size_t>(instruction.guard)];
      lanes &= instruction.guard_negated ? ~holds : holds;
      if (lanes == 0) {
        group.pc++;
        advanced_ |= group.yielded_at < 0;
        continue;
      }
    }
    const Outcome outcome = instruction.execute(warp, instruction, lanes);
    if (outcome == Outcome::kWaiting) {
      if (lanes != group.lanes) {  // those whose guard does not hold have nothing to wait for
        warp.jump(lanes, at);
        advanced_ = true;
      }
      return false;
    }
    if (outcome != Outcome::kJumped) group.pc++;
    if (outcome == Outcome::kYield) {
      // Only a group that comes back to the same failing wait spins: what follows a first one may let others go on.
      advanced_ |= group.yielded_at != at;
      group.yielded_at = at;
      return false;
    }
    // A loop around a failing try_wait gets nowhere until that, or another one, succeeds.
    if (group.yielded_at >= 0 && code_[static_cast<size_t>(group.yielded_at)].execute == instruction.execute) {
      group.yielded_at = -1;
    }
    if (group.yielded_at < 0) advanced_ = true;
  } while (left > 0 && warp.groups_.size() == 1 && group.lanes != 0);
  if (warp.groups_.size() > 1) group.executed++;
  return true;
}

void Scheduler::floating_work() {
  auto& floating = cta_.floating_;
  const size_t which = cta_.launch().schedule.seed == 0 ? 0 : cta_.random()() % floating.size();
  const AsyncPtr work = floating[which];
  floating.erase(floating.begin() + static_cast<std::ptrdiff_t>(which));
  complete(*work);
}

// Work that nobody waited for is still done while the block's memory exists.
void Scheduler::finish() {
  while (!cta_.floating_.empty()) floating_work();
  for (const auto& warp : cta_.warps()) {
    for (int lane = 0; lane < kLanes; lane++) {
      warp->copies(lane).finish();
      warp->bulk(lane).finish();
    }
  }
  for (Warpgroup& warpgroup : cta_.warpgroups_) {
    for (AsyncGroups& groups : warpgroup.groups) groups.finish();
  }
}

void run(const Launch& launch) {
  const Function& function = launch.module->functions[static_cast<size_t>(launch.function)];
  const uint64_t threads = uint64_t{launch.block[0]} * launch.block[1] * launch.block[2];
  const uint64_t most = function.max_threads > 0 ? static_cast<uint64_t>(function.max_threads) : 1024;
  const auto refuse = [&](const std::string& what) { throw Fault("kernel " + function.name + ": " + what); };
  if (threads == 0 || threads > most) {
    refuse(std::to_string(threads) + " threads in a block; it may have 1 to " + std::to_string(most));
  }
  if (launch.cluster[0] != 1 || launch.cluster[1] != 1 || launch.cluster[2] != 1) {
    refuse("clusters of more than one block are not supported");
  }
  if (launch.grid[0] == 0 || launch.grid[1] == 0 || launch.grid[2] == 0) refuse("an empty grid");
  static thread_local std::deque<RegisterFile> files;  // a launch of one block would gain nothing from its own
  for (uint32_t z = 0; z < launch.grid[2]; z++) {
    for (uint32_t y = 0; y < launch.grid[1]; y++) {
      for (uint32_t x = 0; x < launch.grid[0]; x++) {
        const uint32_t index[3] = {x, y, z};
        Cta cta(launch, index, files);
        Scheduler(cta).run();
      }
    }
  }
}

}  // namespace ptx
