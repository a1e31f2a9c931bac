#include "cpu/backend.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "cpu/attention.h"
#include "cpu/average.h"
#include "cpu/isa.h"
#include "cpu/link.h"
#include "cpu/memory.h"
#include "cpu/reflect.h"
#include "cpu/retrieve.h"
#include "cpu/scheduler.h"

namespace na::cpu {
namespace {

constexpr int kMostThreads = 1024;

struct Configuration {
  Isa isa = Isa::kGeneric;
  int threads = 1;
  Status status;
  const char* reason = "ok";
};

// Processors this process may run on.
int available_processors() {
  int count = 1;
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
#endif
  // A control group may grant less: microseconds in each period ("max" does not parse as a number).
  std::ifstream group("/sys/fs/cgroup/cpu.max");
  int64_t quota = 0, period = 0;
  if (group >> quota >> period && quota > 0 && period > 0) {
    count = static_cast<int>(std::min<int64_t>(count, (quota + period - 1) / period));
  }
  return count;
}

Configuration configure() {
  Configuration chosen;
  chosen.isa = isa_best();
  chosen.threads = available_processors();
  constexpr Isa kAll[] = {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAmx};
  if (const char* wanted = getenv("NODE_ATTENTION_CPU")) {
    std::string supported;
    bool known = false, found = false;
    for (Isa isa : kAll) {
      const bool matches = strcmp(wanted, isa_name(isa)) == 0;
      known |= matches;
      if (!isa_supported(isa)) continue;
      supported += (supported.empty() ? "" : ", ") + std::string(isa_name(isa));
      if (matches) {
        chosen.isa = isa;
        found = true;
      }
    }
    if (!found) {
      chosen.reason = known ? "unsupported-arch" : "load-failed";
      chosen.status = error(NA_ERR_OPTION, "NODE_ATTENTION_CPU=%s: %s; use one of %s, or unset it", wanted,
                            known ? "this machine does not have it" : "no such instruction set", supported.c_str());
    }
  }
  if (const char* wanted = getenv("NODE_ATTENTION_THREADS")) {
    char* end = nullptr;
    const long threads = strtol(wanted, &end, 10);
    if (end == wanted || *end != '\0' || threads < 1 || threads > kMostThreads) {
      chosen.reason = "load-failed";
      chosen.status = error(NA_ERR_OPTION, "NODE_ATTENTION_THREADS=%s: it must be a whole number from 1 to %d", wanted,
                            kMostThreads);
    } else {
      chosen.threads = static_cast<int>(threads);
    }
  }
  return chosen;
}

const Configuration& configuration() {
  static const Configuration* const chosen = new Configuration(configure());
  return *chosen;
}

Scheduler& scheduler() {
  static Scheduler* const instance = new Scheduler(configuration().isa, configuration().threads);
  return *instance;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "CPU";
}

int32_t device_count() { return 1; }

void device_info(int32_t, na_device_info* info) {
  snprintf(info->name, sizeof(info->name), "%s", processor_name().c_str());
  snprintf(info->instruction_set, sizeof(info->instruction_set), "%s", isa_name(configuration().isa));
  info->threads = configuration().threads;
  info->memory_bytes = physical_memory();
}

// Threads and memory of the host do not fail for good.
int device_status(int32_t, na_error*) { return NA_OK; }

int memory_allocate(int32_t, int64_t bytes, int, int zeroed, void** data, na_error* failure) {
  *data = allocate(bytes, zeroed != 0);
  if (*data) return NA_OK;
  failure->code = NA_ERR_OUT_OF_MEMORY;
  snprintf(failure->message, sizeof(failure->message), "this machine has %s", bytes_text(physical_memory()).c_str());
  return failure->code;
}

void memory_free(int32_t, int64_t bytes, int, void* data) { release(data, bytes); }

int64_t memory_pooled(int32_t) { return pooled_bytes(); }

int stream_create(int32_t, na_stream** stream, na_error* failure) {
  if (!scheduler().start()) {
    failure->code = NA_ERR_BACKEND;
    snprintf(failure->message, sizeof(failure->message),
             "cannot start %d threads; set NODE_ATTENTION_THREADS to a smaller number", configuration().threads);
    return failure->code;
  }
  *stream = scheduler().create_stream();
  return NA_OK;
}

void stream_destroy(na_stream* stream) { scheduler().destroy_stream(stream); }

// The CPU runs all that core lets through, but for paths of biases that it does not have, given scratch memory, which
// belongs to its threads, and to link and to retrieve memory of the operation.
int operation_check(int32_t, int32_t kind, const void* args, int64_t* workspace_bytes, na_error* failure) {
  *workspace_bytes = 0;
  size_t bytes = 0;
  switch (kind) {
    case NA_OP_ATTENTION: {
      const Status status = check_attention(*static_cast<const na_attention*>(args), configuration().isa, &bytes);
      if (status.ok()) break;
      failure->code = status.code;
      snprintf(failure->message, sizeof(failure->message), "%s", status.message.c_str());
      return failure->code;
    }
    case NA_OP_REFLECT: bytes = reflect_scratch_bytes(*static_cast<const na_reflect*>(args)); break;
    case NA_OP_AVERAGE: bytes = average_scratch_bytes(*static_cast<const na_average*>(args)); break;
    case NA_OP_LINK: link_bytes(*static_cast<const na_link*>(args), workspace_bytes, &bytes); break;
    case NA_OP_RETRIEVE: retrieve_bytes(*static_cast<const na_retrieve*>(args), workspace_bytes, &bytes); break;
    default: return NA_OK;
  }
  if (scheduler().reserve(bytes)) return NA_OK;
  failure->code = NA_ERR_OUT_OF_MEMORY;
  snprintf(failure->message, sizeof(failure->message), "no scratch memory for %d threads, %zu bytes each",
           configuration().threads, bytes);
  return failure->code;
}

void submit(na_stream* stream, na_operation* operation, const na_wait* waits, int32_t wait_count) {
  scheduler().submit(stream, operation, waits, wait_count);
}

int64_t stream_drain(na_stream* stream) { return scheduler().drain(stream); }

const na_backend kTable = {
    NA_BACKEND_ABI, sizeof(na_backend), "cpu",          NODE_ATTENTION_BUILD, 0,
    device_count,   device_info,        device_status,  memory_allocate,      memory_free,
    memory_pooled,  stream_create,      stream_destroy, operation_check,      submit,
    stream_drain,
    nullptr,  // graphs are replayed
    nullptr,
};

}  // namespace

Status backend(const na_backend** table) {
  *table = &kTable;
  return configuration().status;
}

const char* failure_reason() { return configuration().reason; }

}  // namespace na::cpu
