// Instruction sets: which the processor has, and the kernels compiled for each.
#pragma once

#include "zml/kernels/cpu/native/kernels.h"

namespace zml::cpu {

// The kernels of the best instruction set that the processor has, or those of the one that the environment variable
// ZML_CPU_ISA names. Chosen at the first call. A name that is unknown, or that the processor lacks, gives null; then
// IsaError says why.
const Kernels* ActiveKernels();
const char* IsaError();

// The kernels of each instruction set that the processor has, best first; null at the end.
const Kernels* const* AvailableKernels();

}  // namespace zml::cpu
