// Who runs when, within one block.
//
// Warps take turns, in rounds. In its turn a warp executes the group of lanes in the deepest call and, among those, at
// the lowest address, until that one must wait; then the next. Groups that come to the same place become one. A
// group that loops until another of its warp has done something (a lock) gives way to it after a few thousand
// instructions. A turn ends when its length is used up, or when every group waits.
//
// A warp is stuck when all its groups wait, and have tried again since any group of the block got anywhere. When all
// warps are stuck, the block waits for asynchronous work: the oldest piece is done then. When there is none, the block
// is in deadlock.
#pragma once

#include <set>

#include "machine.h"

namespace ptx {

class Scheduler {
 public:
  explicit Scheduler(Cta& cta) : cta_(cta), code_(cta.launch().module->code) {}

  // Runs the block to its end.
  void run();

 private:
  enum class Turn { kAdvanced, kStuck, kUndecided };  // kUndecided: too short to tell

  bool round();  // false: all warps are stuck
  Turn turn(Warp& warp, uint64_t length);
  // One instruction of the group, or several as long as it is the only one. False: it must wait.
  bool execute(Warp& warp, LaneGroup& group, uint64_t& left);
  LaneGroup* choose(Warp& warp);
  void floating_work();
  void finish();

  Cta& cta_;
  const std::vector<Instruction>& code_;
  std::vector<Warp*> order_;
  uint64_t executed_ = 0;
  bool advanced_ = false;  // in this turn
  std::set<const Warp*> stuck_;
};

}  // namespace ptx
