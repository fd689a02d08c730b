// The table of kernels of the instruction set that this is compiled for.

#include "zml/kernels/cpu/native/kernels.h"

#define ZML_NAME_(x) #x
#define ZML_NAME(x) ZML_NAME_(x)
#define ZML_TABLE_(x) kKernels_##x
#define ZML_TABLE(x) ZML_TABLE_(x)

namespace zml::cpu {

namespace ZML_ISA {
extern const AttentionKernels kAttention;
extern const GemmKernels kGemm;
extern const LinearKernels kLinear;
extern const QuantizeKernels kQuantize;
extern const SampleKernels kSample;
}  // namespace ZML_ISA

extern const Kernels ZML_TABLE(ZML_ISA);
const Kernels ZML_TABLE(ZML_ISA) = {
    .name = ZML_NAME(ZML_ISA),
    .attention = &ZML_ISA::kAttention,
    .gemm = &ZML_ISA::kGemm,
    .linear = &ZML_ISA::kLinear,
    .quantize = &ZML_ISA::kQuantize,
    .sample = &ZML_ISA::kSample,
};

}  // namespace zml::cpu
