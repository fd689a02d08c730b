// The table of kernels of the instruction set that this is compiled for.

#include "zml/kernels/cpu/native/kernels.h"

#include "zml/kernels/cpu/native/simd.h"

#define ZML_NAME_(x) #x
#define ZML_NAME(x) ZML_NAME_(x)
#define ZML_TABLE_(x) kKernels_##x
#define ZML_TABLE(x) ZML_TABLE_(x)

namespace zml::cpu {

namespace ZML_ISA {
extern const LinearKernels kLinear;
extern const GemmKernels kGemm;
}  // namespace ZML_ISA

extern const Kernels ZML_TABLE(ZML_ISA);
const Kernels ZML_TABLE(ZML_ISA) = {
    .name = ZML_NAME(ZML_ISA),
    .linear = &ZML_ISA::kLinear,
    .gemm = &ZML_ISA::kGemm,
};

}  // namespace zml::cpu
