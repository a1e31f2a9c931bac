// The devices: NODE_ATTENTION_STANDIN_DEVICES of them, one unless set, all alike: an H200 each, or by
// NODE_ATTENTION_STANDIN_CAPABILITY=8.0 an A100, as far as programs ask.
#pragma once

namespace standin {

struct Device {
  const char* name;
  int major, minor, multiprocessors;
  int most_shared;  // bytes that a block may ask for
};

const Device& device();  // what each of them is
int device_count();
int current_device();  // of the calling thread

constexpr int kMostDevices = 8, kSharedWithoutAsking = 48 << 10, kVersion = 13000;

}  // namespace standin
