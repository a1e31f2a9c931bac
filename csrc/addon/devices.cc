// devices(), how they were found, memoryStats() and the check of a device's name.
#include "addon/arguments.h"
#include "addon/environment.h"
#include "addon/functions.h"

namespace na {
namespace {

Napi::Value devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto& reports = device_reports();
  Napi::Array list = Napi::Array::New(env, reports.size());
  for (uint32_t i = 0; i < reports.size(); i++) {
    const DeviceReport& report = reports[i];
    Napi::Object row = Napi::Object::New(env);
    const bool usable = report.reason == "ok";
    row.Set("device", report.device);
    row.Set("backend", report.backend);
    row.Set("usable", usable);
    row.Set("reason", report.reason);
    row.Set("message", report.message);
    if (usable) {
      row.Set("name", std::string(report.info.name));
      row.Set("instructionSet", std::string(report.info.instruction_set));
      row.Set("threads", report.info.threads);
      row.Set("memoryBytes", static_cast<double>(report.info.memory_bytes));
    }
    list.Set(i, row);
  }
  return list;
}

// cudaSearch(): how the CUDA backend was looked for, step by step.
Napi::Value cuda_search(const Napi::CallbackInfo& info) {
  const auto& steps = na::cuda_search();
  Napi::Array list = Napi::Array::New(info.Env(), steps.size());
  for (uint32_t i = 0; i < steps.size(); i++) list.Set(i, steps[i]);
  return list;
}

// resolveDevice(name): the canonical name ("cuda" is "cuda:0"), or ERR_DEVICE.
Napi::Value resolve_device(const Napi::CallbackInfo& info) {
  Device* device = nullptr;
  NA_REFUSE(info.Env(), read_device(info[0], &device));
  return Napi::String::New(info.Env(), device->name);
}

Napi::Value memory_stats(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Device* device = nullptr;
  NA_REFUSE(env, read_device(info[0], &device));
  Napi::Object stats = Napi::Object::New(env);
  stats.Set("live", static_cast<double>(device->live.load()));
  stats.Set("bytes", static_cast<double>(device->bytes.load()));
  stats.Set("peakBytes", static_cast<double>(device->peak_bytes.load()));
  stats.Set("pooledBytes", static_cast<double>(device->backend->memory_pooled(device->index)));
  return stats;
}

}  // namespace

void export_devices(Napi::Env env, Napi::Object exports) {
  export_function<devices>(env, exports, "devices");
  export_function<cuda_search>(env, exports, "cudaSearch");
  export_function<resolve_device>(env, exports, "resolveDevice");
  export_function<memory_stats>(env, exports, "memoryStats");
}

}  // namespace na
