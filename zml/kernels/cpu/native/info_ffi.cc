// What Python asks of the library before it uses it.

#include "xla/ffi/api/c_api.h"
#include "zml/kernels/cpu/native/isa.h"
#include "zml/kernels/cpu/native/parallel.h"

extern "C" {

// The instruction set that is used, or null; then zml_cpu_error says why.
const char* zml_cpu_isa() {
  const zml::cpu::Kernels* kernels = zml::cpu::ActiveKernels();
  return kernels == nullptr ? nullptr : kernels->name;
}

const char* zml_cpu_error() { return zml::cpu::IsaError(); }

// The version of XLA's interface that the handlers were compiled for: 1000 * major + minor.
int zml_cpu_ffi_version() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

// The processors that this process may keep busy.
int zml_cpu_processors() { return static_cast<int>(zml::cpu::AvailableProcessors()); }

}  // extern "C"
