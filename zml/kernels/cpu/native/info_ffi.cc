// What Python asks of the library before it uses it.

#include "zml/kernels/cpu/native/isa.h"
#include "zml/kernels/cpu/native/parallel.h"

extern "C" {

// The instruction set that is used, or null; then zml_cpu_error says why.
const char* zml_cpu_isa() {
  const zml::cpu::Kernels* kernels = zml::cpu::ActiveKernels();
  return kernels == nullptr ? nullptr : kernels->name;
}

const char* zml_cpu_error() { return zml::cpu::IsaError(); }

// The processors that this process may keep busy.
int zml_cpu_processors() { return static_cast<int>(zml::cpu::AvailableProcessors()); }

}  // extern "C"
