// The kernels of one instruction set: a table of functions, compiled from one source for each set.
//
// Everything here is plain data: code that is compiled for AVX-512 must not leave an inline function behind that the
// linker then takes for all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zml::cpu {

// How the elements of activations, dense weights and caches are stored. Half-width floats are handed on as uint16_t.
enum class Type : int32_t { kF32, kBF16, kF16 };

// How a weight is stored, see zml/kernels/cpu/formats.md.
enum class Format : int32_t { kDense, kInt8, kInt8Channel, kInt4 };

// The tables of a kind each; their headers say what is in them. A kind's kernels are in kernels_KIND.cc, which is compiled
// once for each instruction set.
struct AttentionKernels;
struct GemmKernels;
struct LinearKernels;
struct QuantizeKernels;
struct SampleKernels;

struct Kernels {
  // What ZML_CPU_ISA calls it.
  const char* name;
  const AttentionKernels* attention;
  const GemmKernels* gemm;
  const LinearKernels* linear;
  const QuantizeKernels* quantize;
  const SampleKernels* sample;
};

}  // namespace zml::cpu
