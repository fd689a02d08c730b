// The products of a few rows with weights: a weight is read once, and is bound by memory as long as the rows are few.

#include "zml/kernels/cpu/native/activation.h"
#include "zml/kernels/cpu/native/linear.h"
#include "zml/kernels/cpu/native/linear_dense.h"
#include "zml/kernels/cpu/native/linear_packed.h"

namespace zml::cpu::ZML_ISA {
namespace {

size_t PreparedBytes(const Weight& weight, Type x_type, size_t m, size_t k) {
  switch (weight.format) {
    case Format::kDense:
      return WithKind(weight.type, x_type, [&](auto kind) { return DenseBytes<decltype(kind)>(m, k); });
    case Format::kInt8:
    case Format::kInt8Channel:
      return PackedBytes<Int8Packing>(m, k);
    case Format::kInt4:
      return PackedBytes<Int4Packing>(m, k);
  }
}

void Prepare(const Weight& weight, Type x_type, const void* x, size_t m, size_t k, void* prepared) {
  switch (weight.format) {
    case Format::kDense:
      return WithKind(weight.type, x_type, [&](auto kind) { PrepareDense<decltype(kind)>(x_type, x, m, k, prepared); });
    case Format::kInt8:
    case Format::kInt8Channel:
      return PreparePacked<Int8Packing>(x_type, x, m, k, prepared);
    case Format::kInt4:
      return PreparePacked<Int4Packing>(x_type, x, m, k, prepared);
  }
}

void Multiply(const Weight& weight, Type x_type, const void* prepared, size_t m, size_t k, size_t begin, size_t end,
              const void* next, float* sums, size_t stride) {
  switch (weight.format) {
    case Format::kDense:
      return WithKind(weight.type, x_type, [&](auto kind) {
        MultiplyDense<decltype(kind)>(weight, prepared, m, k, begin, end, next, sums, stride);
      });
    case Format::kInt8:
      return MultiplyPacked<Int8Packing, false>(weight, prepared, m, k, begin, end, next, sums, stride);
    case Format::kInt8Channel:
      return MultiplyPacked<Int8Packing, true>(weight, prepared, m, k, begin, end, next, sums, stride);
    case Format::kInt4:
      return MultiplyPacked<Int4Packing, false>(weight, prepared, m, k, begin, end, next, sums, stride);
  }
}

template <Activation activation>
void FinishWith(const LinearFinish& f) {
  for (size_t i = 0; i < f.n; i += kLanes) {
    const size_t count = Min(kLanes, f.n - i);
    F32 y = LoadSome(Type::kF32, f.sums + i, count);
    if (f.bias != nullptr) y += LoadSome(f.bias_type, At(f.bias_type, f.bias, i), count);
    if constexpr (activation != Activation::kNone) {
      F32 up = LoadSome(Type::kF32, f.up + i, count);
      if (f.up_bias != nullptr) up += LoadSome(f.bias_type, At(f.bias_type, f.up_bias, i), count);
      y = Activate<activation>(y) * up;
    }
    StoreSome(f.y_type, static_cast<char*>(f.y) + i * SizeOf(f.y_type), y, count);
  }
}

void Finish(const LinearFinish& f) {
  switch (f.activation) {
    case Activation::kNone:
      return FinishWith<Activation::kNone>(f);
    case Activation::kSilu:
      return FinishWith<Activation::kSilu>(f);
    case Activation::kGelu:
      return FinishWith<Activation::kGelu>(f);
    case Activation::kGeluTanh:
      return FinishWith<Activation::kGeluTanh>(f);
    case Activation::kQuickGelu:
      return FinishWith<Activation::kQuickGelu>(f);
    case Activation::kRelu:
      return FinishWith<Activation::kRelu>(f);
    case Activation::kRelu2:
      return FinishWith<Activation::kRelu2>(f);
    case Activation::kSigmoid:
      return FinishWith<Activation::kSigmoid>(f);
  }
}

}  // namespace

extern const LinearKernels kLinear;
const LinearKernels kLinear = {
    .prepared_bytes = PreparedBytes,
    .prepare = Prepare,
    .multiply = Multiply,
    .finish = Finish,
};

}  // namespace zml::cpu::ZML_ISA
