// The table of kernels of the instruction set that this is compiled for.

#include "zml/kernels/cpu/native/kernels.h"

#include "zml/kernels/cpu/native/simd.h"

#define ZML_NAME_(x) #x
#define ZML_NAME(x) ZML_NAME_(x)
#define ZML_TABLE_(kind, x) k##kind##_##x
#define ZML_TABLE(kind, x) ZML_TABLE_(kind, x)

namespace zml::cpu {

extern const AttentionKernels ZML_TABLE(Attention, ZML_ISA);

extern const Kernels ZML_TABLE(Kernels, ZML_ISA);
const Kernels ZML_TABLE(Kernels, ZML_ISA) = {
    .name = ZML_NAME(ZML_ISA),
    .attention = &ZML_TABLE(Attention, ZML_ISA),
};

}  // namespace zml::cpu
