#include "core/submission.h"

namespace na {

Status Submission::run() {
  const Status status = prepare();
  if (status.ok()) {
    enqueue();
  } else {
    settle(false);
  }
  return status;
}

Status Submission::prepare() { return stream->prepare(operations_.data(), operations_.size()); }

void Submission::enqueue() {
  for (Operation* operation : std::exchange(operations_, {})) stream->enqueue(operation);
  settle(true);
}

void Submission::settle(bool enqueued) {
  for (Operation* operation : std::exchange(operations_, {})) operation->destroy();
  for (const auto& action : std::exchange(actions_, {})) action(enqueued);
}

}  // namespace na
