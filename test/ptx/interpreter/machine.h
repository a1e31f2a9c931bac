// What exists while a kernel runs: blocks (CTAs), their warps, shared memory, barriers, and asynchronous work under
// way. Instruction families read and write it through these classes; the scheduler (scheduler.cc) decides who runs.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ir.h"
#include "memory.h"

namespace ptx {

class Cta;

// When asynchronous work (cp.async, bulk and tensor copies, wgmma) takes effect.
enum class Asynchrony {
  kImmediate,  // at once: shows stages that are released or overwritten too early
  kLate,       // as late as the waits allow: shows missing waits
  kRandom      // either, by the seed
};

struct Schedule {
  uint64_t seed = 0;  // 0: warps in order, long turns; else the order of warps and the length of turns are random
  Asynchrony asynchrony = Asynchrony::kImmediate;
};

struct Launch {
  const Module* module = nullptr;
  int function = -1;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1}, cluster[3] = {1, 1, 1};
  uint32_t dynamic_shared = 0;
  const uint8_t* parameters = nullptr;
  uint64_t parameter_bytes = 0;
  Schedule schedule;
};

// Runs every block of a launch. Throws Fault: a bad access, an unknown state, a deadlock (with the line of every
// waiting warp).
void run(const Launch& launch);

// A piece of asynchronous work. `run` is called once; then the record is done.
struct Async {
  std::function<void()> run;
  const Instruction* instruction = nullptr;  // who started it
  bool done = false;
};
using AsyncPtr = std::shared_ptr<Async>;

// Groups of asynchronous work as commit_group and wait_group know them, for one thread or one warpgroup.
class AsyncGroups {
 public:
  void add(AsyncPtr work) { open_.push_back(std::move(work)); }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }
  // Completes all but the last `pending` committed groups, oldest first.
  void wait(size_t pending);
  bool empty() const { return open_.empty() && groups_.empty(); }
  // Completes everything, committed or not (mbarrier arrival of cp.async, end of the block).
  void finish();
  // All work that is not done, committed or not.
  std::vector<AsyncPtr> pending() const {
    std::vector<AsyncPtr> all;
    const auto collect = [&all](const std::vector<AsyncPtr>& group) {
      for (const AsyncPtr& work : group) {
        if (!work->done) all.push_back(work);
      }
    };
    for (const auto& group : groups_) collect(group);
    collect(open_);
    return all;
  }

 private:
  std::vector<AsyncPtr> open_;
  std::deque<std::vector<AsyncPtr>> groups_;
};

// Runs the work unless it is done.
void complete(Async& work);

// Lanes of a warp that are at the same place. A warp is a list of groups that share no lane.
struct LaneGroup {
  uint32_t lanes = 0;
  int pc = 0;
  std::vector<int> return_to;  // where calls under way return, outermost first
  bool waiting = false;        // its instruction said kWaiting or kYield; cleared in the next round
  int yielded_at = -1;         // the instruction that said kYield, until it says something else: the group spins
  int executed = 0;            // instructions, while there were other groups; see Scheduler::choose
};

// Where a warp has its registers. Megabytes, so they are kept from block to block: to get and return them for each
// takes longer than most blocks.
struct RegisterFile {
  std::vector<Row> rows;
  std::vector<uint32_t> predicates;
};

class Warp {
 public:
  // Every register of the file gets poison.
  Warp(Cta& cta, int index, uint32_t lanes, RegisterFile& file);

  Cta& cta() { return *cta_; }
  int index() const { return index_; }  // within the block
  int warpgroup() const { return index_ / 4; }
  uint32_t thread(int lane) const { return static_cast<uint32_t>(index_ * kLanes + lane); }
  uint32_t live() const { return live_; }                 // lanes that have not exited
  const LaneGroup& current() const { return *current_; }  // the group that executes now

  // Registers. Values of fewer than 64 bits are kept with the upper bits zero.
  Row& row(int index) { return registers_[static_cast<size_t>(index)]; }
  uint32_t& predicate(int index) { return predicates_[static_cast<size_t>(index)]; }
  // The carry flag (CC.CF) of each lane.
  uint32_t& carry() { return carry_; }
  // The lanes in which a predicate operand (or a constant 0/1 one) holds, negation applied.
  uint32_t holds(const Operand& operand) const;
  // The source row of a register or constant operand.
  const Row& source(const Operand& operand) const {
    return operand.kind == Operand::Kind::kRegister ? registers_[static_cast<size_t>(operand.index)]
                                                    : *operand.constant;
  }
  // The destination row of a register operand; a row that nobody reads for _.
  Row& destination(const Operand& operand) {
    return operand.kind == Operand::Kind::kSink ? nowhere_ : registers_[static_cast<size_t>(operand.index)];
  }
  // The effective address of a kAddress operand (base + offset), not yet checked.
  uint64_t address(const Operand& operand, int lane) const {
    const uint64_t base =
        operand.index >= 0 ? registers_[static_cast<size_t>(operand.index)][lane] : (*operand.constant)[lane];
    return base + static_cast<uint64_t>(operand.offset);
  }

  // Checks an access of one lane, aligned to `align`, and gives the host address of its first byte. Shared addresses
  // may be generic (in the window) or offsets (space kShared). Reports proxy violations (see Cta::touch_shared).
  uint8_t* memory(const Instruction& by, int lane, Space space, uint64_t address, uint64_t bytes, uint64_t align,
                  Access access);

  // Fault with the line, the block, the warp and the lane.
  [[noreturn]] void fault(const Instruction& by, int lane, const std::string& what) const;

  // Control flow, for the families control.cc and warp.cc.
  void jump(uint32_t lanes, int pc);  // those lanes of the current group go on at pc; the rest stay
  void call(const Instruction& by, uint32_t lanes, int pc);
  void ret(const Instruction& by, uint32_t lanes);
  void exit(uint32_t lanes);
  // Parts these lanes from the current group: they execute the same instruction again, later.
  void hold(uint32_t lanes);
  // True when every live lane of `mask` is in the current group, which then is one that executes together. Otherwise
  // the handler returns kWaiting; lanes that reach the same instruction join.
  bool gathered(uint32_t mask) const { return (mask & live_ & ~current_->lanes) == 0; }

  // Of each thread: cp.async groups, and bulk groups.
  AsyncGroups& copies(int lane) { return copies_[static_cast<size_t>(lane)]; }
  AsyncGroups& bulk(int lane) { return bulk_[static_cast<size_t>(lane)]; }

  // Lines of what this warp waits for; empty when it is not waiting. For the deadlock report.
  std::string waits_for() const;

 private:
  friend class Scheduler;
  Cta* cta_;
  int index_;
  uint32_t live_;
  std::vector<Row>& registers_;
  std::vector<uint32_t>& predicates_;
  uint32_t carry_ = 0;
  std::vector<uint8_t> local_, call_;  // per lane, side by side
  Row nowhere_ = {};
  std::list<LaneGroup> groups_;
  LaneGroup* current_ = nullptr;
  std::array<AsyncGroups, kLanes> copies_, bulk_;
};

// A named barrier (bar.sync id): lanes by warp. See instructions/barrier.cc.
struct NamedBarrier {
  uint32_t threads = 0;           // that the present phase waits for; 0: all that have not exited
  bool open = false;              // somebody has arrived in the present phase
  uint32_t arrived[32] = {};      // in the present phase
  uint32_t waiting[32] = {};      // of these, who waits for its end
  uint32_t released[32] = {};     // who may leave, since its phase has ended
  uint32_t count = 0, total = 0;  // bar.red, in the present phase: lanes whose predicate held, and all
  // The same of the phase that released the lanes of a warp: the next one may end before they leave.
  uint32_t result[32] = {}, result_total[32] = {};
};

// Accumulators of wgmma that operations under way will write. Their registers hold NaN meanwhile; the values are here,
// as a matrix of 64 rows in one of the two vectors.
struct Accumulators {
  std::vector<int> registers;
  std::vector<float> floats;
  std::vector<int32_t> integers;
  int users = 0;  // operations under way
};

// Where the four warps of a warpgroup meet for wgmma, and what is under way. See instructions/wgmma.cc.
struct Warpgroup {
  const Instruction* meeting = nullptr;  // where the warps wait for one another
  uint32_t arrived = 0;                  // warps, by bit, that have come there
  uint32_t released = 0;                 // warps that may leave the meeting before
  std::shared_ptr<Async> last;           // the operation issued last
  AsyncGroups groups[4];                 // of each warp, with the same operations
  std::list<Accumulators> accumulators;
};

class Cta {
 public:
  // `files`: of its warps; gets as many as there are warps.
  Cta(const Launch& launch, const uint32_t index[3], std::deque<RegisterFile>& files);

  const Launch& launch() const { return launch_; }
  const uint32_t* index() const { return index_; }
  uint32_t threads() const { return threads_; }
  std::vector<std::unique_ptr<Warp>>& warps() { return warps_; }
  Warp& warp(int index) { return *warps_[static_cast<size_t>(index)]; }
  uint32_t live_threads() const;

  // Shared memory [kSharedBase, kSharedBase + shared_bytes). Starts as 0xff in every byte: NaN in all float types.
  // `address` is an offset of the shared space (generic addresses: subtract kSharedWindow). Checked; records the access
  // for the check of proxies: what was written through the generic proxy must not be read through the asynchronous one
  // before the writer's fence.proxy.async.
  uint8_t* shared(const Warp* warp, const Instruction& by, int lane, uint64_t address, uint64_t bytes, uint64_t align,
                  Access access, Proxy proxy);
  // fence.proxy.async by these lanes of the warp: what the warp wrote so far may be read asynchronously.
  void fence_proxy(const Warp& warp);

  NamedBarrier& barrier(int id) { return barriers_[static_cast<size_t>(id)]; }
  // The mbarrier objects in shared memory: state by address. Memory holds it too, so that overwriting is noticed.
  std::map<uint64_t, uint64_t>& mbarriers() { return mbarriers_; }
  Warpgroup& warpgroup(int index) { return warpgroups_[static_cast<size_t>(index)]; }

  // Starts asynchronous work that completes by itself (a tensor load that signals an mbarrier): at once, or when the
  // scheduler finds it time, by the schedule. In every mode it runs before a deadlock is declared.
  AsyncPtr start(const Instruction& by, std::function<void()> run);
  // Asynchronous work that completes at the latest when somebody waits for its group; at once or then, by the schedule.
  AsyncPtr defer(const Instruction& by, std::function<void()> run);

  // Something happened that a waiting warp may look at (a write, an arrival): the scheduler lets all try again.
  void progress() { progress_++; }
  std::mt19937_64& random() { return random_; }

 private:
  friend class Scheduler;
  friend class Warp;
  const Launch& launch_;
  uint32_t index_[3], threads_;
  std::vector<std::unique_ptr<Warp>> warps_;
  std::vector<uint8_t> shared_;
  std::vector<uint8_t> parameters_;
  // For each 16 bytes of shared memory: 1 + the warp whose generic write has not been fenced, and the instruction.
  std::vector<uint16_t> unfenced_by_;
  std::vector<const Instruction*> unfenced_at_;
  std::array<NamedBarrier, 16> barriers_;
  std::map<uint64_t, uint64_t> mbarriers_;
  std::vector<Warpgroup> warpgroups_;
  std::deque<AsyncPtr> floating_;  // started, signals by itself, not yet run
  uint64_t progress_ = 0;
  std::mt19937_64 random_;
};

// Reading and writing values of a type in rows.
template <typename T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <typename T>
uint64_t to_bits(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename Function>
void for_lanes(uint32_t lanes, Function function) {
  for (; lanes != 0; lanes &= lanes - 1) function(__builtin_ctz(lanes));
}

}  // namespace ptx
