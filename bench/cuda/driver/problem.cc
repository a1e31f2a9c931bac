#include "problem.h"

#include <algorithm>

namespace bench {

namespace {

constexpr int64_t kElement = sizeof(uint16_t);

// Repeats the block, from the phase on, over the whole of a tensor.
Status fill(Backend& backend, const Memory& tensor, const Memory& block, int64_t phase) {
  const int64_t count = block.bytes() / kElement, elements = tensor.bytes() / kElement;
  for (int64_t at = 0; at < elements;) {
    const int64_t length = std::min(count - phase, elements - at);
    Status status = backend.copy(static_cast<uint16_t*>(tensor.data()) + at,
                                 static_cast<uint16_t*>(block.data()) + phase, length * kElement);
    if (!status.empty()) return status;
    at += length;
    phase = 0;
  }
  return {};
}

}  // namespace

Status make_problem(Backend& backend, const driver_shape& shape, const uint16_t* block, int64_t count,
                    Problem* problem) {
  const int64_t queries = shape.batch * shape.queries * shape.heads,
                keys = shape.batch * shape.keys * shape.kv_heads * shape.head_dim;
  Memory source;
  if (Status status = backend.allocate(count * kElement, &source); !status.empty()) return status;
  if (Status status = backend.copy(source.data(), block, count * kElement); !status.empty()) return status;
  problem->shape = shape;
  for (int64_t set = 0; set < shape.sets; set++) {
    Tensors& tensors = problem->sets.emplace_back();
    const struct {
      Memory* memory;
      int64_t bytes;
    } wanted[] = {{&tensors.q, queries * shape.head_dim * kElement},
                  {&tensors.k, keys * kElement},
                  {&tensors.v, keys * kElement},
                  {&tensors.out, queries * shape.head_dim * kElement},
                  {&tensors.lse, queries * int64_t{sizeof(float)}}};
    for (const auto& [memory, bytes] : wanted) {
      if (Status status = backend.allocate(bytes, memory); !status.empty()) return status;
    }
    int64_t n = 3 * set;
    for (const Memory* memory : {&tensors.q, &tensors.k, &tensors.v}) {
      const Status status = fill(backend, *memory, source, n++ * DRIVER_PHASE % count);
      if (!status.empty()) return status;
    }
  }
  return poison(backend, *problem);
}

Status poison(Backend& backend, const Problem& problem) {
  std::vector<uint8_t> nan;
  for (const Tensors& set : problem.sets) {
    for (const Memory* memory : {&set.out, &set.lse}) {
      nan.resize(memory->bytes(), 0xff);
      const Status status = backend.copy(memory->data(), nan.data(), memory->bytes());
      if (!status.empty()) return status;
    }
  }
  return {};
}

}  // namespace bench
