// The instruction sets that the executor is compiled for, and which of them this machine runs.
#pragma once

namespace na::cpu {

enum class Isa { kGeneric, kAvx2, kAvx512, kAmx };

const char* isa_name(Isa isa);
bool isa_supported(Isa isa);
Isa isa_best();

}  // namespace na::cpu
