// The instruction sets that the executor is compiled for, and which of them this machine runs.
#pragma once

namespace na::cpu {

enum class Isa { kGeneric, kAvx2, kAvx512, kAmx };

const char* isa_name(Isa isa);
bool isa_supported(Isa isa);
Isa isa_best();

// Whether AVX-512 multiplies bytes here: without it only on processors of 2017 to 2019.
bool isa_has_vnni();

}  // namespace na::cpu
