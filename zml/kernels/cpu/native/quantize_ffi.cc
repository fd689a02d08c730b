// Quantizing for Python, which calls it on its own threads, a part of a weight each.

#include "zml/kernels/cpu/native/quantize.h"

#include "zml/kernels/cpu/native/isa.h"

extern "C" {

// See QuantizeKernels. 1 for success, 0 where an element is not finite.
int zml_cpu_quantize(int32_t format, int32_t type, const void* w, int64_t rows, int64_t columns, void* values,
                     void* scales) {
  const zml::cpu::Kernels* kernels = zml::cpu::ActiveKernels();
  return kernels->quantize->quantize(static_cast<zml::cpu::Format>(format), static_cast<zml::cpu::Type>(type), w,
                                     static_cast<size_t>(rows), static_cast<size_t>(columns), values, scales);
}

}  // extern "C"
