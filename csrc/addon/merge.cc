// merge(): exact union of attention results.
#include "core/merge.h"

#include "addon/arguments.h"
#include "addon/functions.h"
#include "addon/handle.h"

namespace na {
namespace {

// merge(parts, out | undefined, stream | undefined): { out, lse }
Napi::Value call_merge(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list;
  NA_REFUSE(env, read_list(info[0], "parts", NA_ERR_OPTION, &list));
  std::vector<Ref<Tensor>> held;
  std::vector<MergePart> parts;
  for (uint32_t i = 0, count = list.Length(); i < count; i++) {
    const Napi::Value part = list.Get(i);
    const std::string name = "parts[" + std::to_string(i) + "]";
    if (!part.IsObject()) return refuse(env, error(NA_ERR_OPTION, "%s is not { out, lse }", name.c_str()));
    Ref<Tensor> out, lse;
    NA_REFUSE(env, unwrap<Tensor>(part.As<Napi::Object>().Get("out"), (name + ".out").c_str(), &out));
    NA_REFUSE(env, unwrap<Tensor>(part.As<Napi::Object>().Get("lse"), (name + ".lse").c_str(), &lse));
    parts.push_back({out.get(), lse.get()});
    held.insert(held.end(), {out, lse});
  }
  if (parts.empty()) return refuse(env, error(NA_ERR_OPTION, "parts is empty; merge needs at least one { out, lse }"));
  Ref<Stream> stream;
  AttentionResult result;
  if (!info[1].IsUndefined()) NA_REFUSE(env, unwrap<Tensor>(info[1], "out", &result.out));
  const bool given = static_cast<bool>(result.out);
  NA_REFUSE(env, stream_of(env, info[2], parts[0].out->device(), &stream));
  Submission all(stream.get());
  NA_REFUSE(env, merge(parts, &all, &result));
  NA_REFUSE(env, all.run());
  return wrap_result(env, std::move(result), given);
}

}  // namespace

void export_merge(Napi::Env env, Napi::Object exports) { export_function<call_merge>(env, exports, "merge"); }

}  // namespace na
