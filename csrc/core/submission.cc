#include "core/submission.h"

namespace na {

Status Submission::run() {
  const std::vector<Operation*> operations = std::exchange(operations_, {});
  const Status status = stream->run(operations.data(), operations.size());
  settle(status.ok());
  return status;
}

void Submission::settle(bool enqueued) {
  for (Operation* operation : std::exchange(operations_, {})) operation->destroy();
  for (const auto& action : std::exchange(actions_, {})) action(enqueued);
}

}  // namespace na
