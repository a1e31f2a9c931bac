#include "core/device.h"

#include <memory>

#include "core/loader.h"
#include "cpu/backend.h"

namespace na {

Status Device::status() const {
  na_error failure;
  return backend->device_status(index, &failure) == NA_OK ? Status{} : Status::from(failure);
}

Status Device::allocate(int64_t size, bool pinned, bool zeroed, void** data) const {
  NA_TRY(status());
  na_error failure{};
  if (backend->memory_allocate(index, size, pinned, zeroed, data, &failure)) {
    return error(static_cast<na_code>(failure.code),
                 "cannot allocate %s %s %s: %s; %lld tensors are alive and hold %s: dispose() those no longer needed",
                 bytes_text(size).c_str(), pinned ? "of host memory pinned for" : "on", name.c_str(), failure.message,
                 static_cast<long long>(live.load()), bytes_text(bytes.load()).c_str());
  }
  return {};
}

Status Device::check(int32_t kind, const void* args, int64_t* workspace_bytes) const {
  na_error refusal{};
  if (backend->operation_check(index, kind, args, workspace_bytes, &refusal)) return Status::from(refusal);
  return {};
}

void Device::count(int64_t tensors, int64_t held) {
  live += tensors;
  const int64_t now = bytes.fetch_add(held) + held;
  int64_t peak = peak_bytes.load();
  while (peak < now && !peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

namespace {

struct Registry {
  std::vector<DeviceReport> reports;
  std::vector<std::unique_ptr<Device>> devices;
  std::vector<std::string> cuda_search;
  Status cpu;  // why there is no CPU device, when a variable asks for an impossible one

  void add(const na_backend* backend) {
    for (int32_t i = 0; i < backend->device_count(); i++) {
      DeviceReport report{};
      backend->device_info(i, &report.info);
      report.backend = backend->name;
      report.device = report.backend == "cpu" ? "cpu" : report.backend + ":" + std::to_string(i);
      report.reason = "ok";
      report.message = report.info.name;
      devices.push_back(std::make_unique<Device>(backend, i, report.device, report.backend == "cpu"));
      reports.push_back(report);
    }
  }

  Registry() {
    const na_backend* cpu_table = nullptr;
    cpu = cpu::backend(&cpu_table);
    if (cpu.ok()) {
      add(cpu_table);
    } else {
      reports.push_back({"cpu", "cpu", cpu::failure_reason(), cpu.message, {}});
    }
    LoadedBackend cuda = load_cuda_backend();
    cuda_search = std::move(cuda.steps);
    if (cuda.table) {
      add(cuda.table);
    } else {
      reports.push_back({"cuda", "cuda", cuda.reason, cuda.message, {}});
    }
  }
};

const Registry& registry() {
  static const Registry* const instance = new Registry;  // never destroyed, see device.h
  return *instance;
}

}  // namespace

const std::vector<DeviceReport>& device_reports() { return registry().reports; }

const std::vector<std::string>& cuda_search() { return registry().cuda_search; }

Status find_device(const std::string& name, Device** device) {
  const std::string wanted = name == "cuda" ? "cuda:0" : name;
  for (const auto& candidate : registry().devices) {
    if (candidate->name == wanted) {
      *device = candidate.get();
      return {};
    }
  }
  if (wanted == "cpu") return registry().cpu;
  std::string known;
  for (const auto& report : registry().reports) {
    if (report.backend == "cuda" && report.reason != "ok" && wanted.rfind("cuda:", 0) == 0) {
      return error(NA_ERR_DEVICE, "device '%s' is not available (%s): %s; use device 'cpu'", name.c_str(),
                   report.reason.c_str(), report.message.c_str());
    }
    if (report.reason == "ok") known += (known.empty() ? "'" : ", '") + report.device + "'";
  }
  return error(NA_ERR_DEVICE, "device '%s' is not there; use one of %s", name.c_str(), known.c_str());
}

Device* pinning_device() {
  for (const auto& candidate : registry().devices) {
    if (!candidate->host && candidate->status().ok()) return candidate.get();
  }
  return nullptr;
}

}  // namespace na
