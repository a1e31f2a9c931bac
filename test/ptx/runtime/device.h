// The one device: an H200, or by NODE_ATTENTION_STANDIN_CAPABILITY=8.0 an A100, as far as programs ask.
#pragma once

namespace standin {

struct Device {
  const char* name;
  int major, minor, multiprocessors;
  int most_shared;  // bytes that a block may ask for
};

const Device& device();

constexpr int kSharedWithoutAsking = 48 << 10, kVersion = 13000;

}  // namespace standin
