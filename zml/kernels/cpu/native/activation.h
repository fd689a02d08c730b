// Activations of vectors, for the sources that are compiled once for each instruction set.
#pragma once

#include "zml/kernels/cpu/native/linear.h"
#include "zml/kernels/cpu/native/simd.h"

namespace zml::cpu::ZML_ISA {

// To the nearest integer, ties to even, of numbers below 2^22: adding this leaves no bits for what is behind the point.
constexpr float kRounder = 12582912.0f;

ZML_INLINE F32 Select(I32 mask, F32 yes, F32 no) { return (F32)((mask & (I32)yes) | (~mask & (I32)no)); }

// e^x to about 2 ulp for x in -87 ... 88; beyond, the value there. NaN stays NaN.
ZML_INLINE F32 Exp(F32 x) {
  x = Select(x > Set(88.0f), Set(88.0f), Select(x < Set(-87.0f), Set(-87.0f), x));
  const F32 shifted = Fma(x, Set(1.44269504f), Set(kRounder)), n = shifted - kRounder;
  F32 r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  F32 p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, r * r, r) + 1.0f;
  return p * (F32)(((I32)shifted << 23) + (127 << 23));
}

ZML_INLINE F32 Sigmoid(F32 x) { return Set(1.0f) / (Exp(-x) + 1.0f); }

// The normal distribution's cumulative function: erfc(-x / sqrt(2)) / 2, by the Chebyshev fit of Numerical Recipes, whose
// relative error is below 1.2e-7 for all x.
ZML_INLINE F32 NormalCdf(F32 x) {
  const I32 negative = x < F32{};
  const F32 z = Select(negative, -x, x) * 0.707106781f, t = Set(1.0f) / Fma(z, Set(0.5f), Set(1.0f));
  F32 p = Set(0.17087277f);
  p = Fma(p, t, Set(-0.82215223f));
  p = Fma(p, t, Set(1.48851587f));
  p = Fma(p, t, Set(-1.13520398f));
  p = Fma(p, t, Set(0.27886807f));
  p = Fma(p, t, Set(-0.18628806f));
  p = Fma(p, t, Set(0.09678418f));
  p = Fma(p, t, Set(0.37409196f));
  p = Fma(p, t, Set(1.00002368f));
  p = Fma(p, t, Set(-1.26551223f));
  const F32 tail = t * 0.5f * Exp(Fma(-z, z, p));
  return Select(negative, tail, 1.0f - tail);
}

template <Activation activation>
ZML_INLINE F32 Activate(F32 x) {
  switch (activation) {
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kGelu:
      return x * NormalCdf(x);
    case Activation::kGeluTanh:
      // x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
      return x * Sigmoid(x * Fma(x * x, Set(0.0713548162f), Set(1.59576912f)));
    case Activation::kQuickGelu:
      return x * Sigmoid(x * 1.702f);
    case Activation::kRelu:
      return Select(x < F32{}, F32{}, x);
    case Activation::kRelu2:
      return Select(x < F32{}, F32{}, x * x);
    case Activation::kSigmoid:
      return Sigmoid(x);
    case Activation::kNone:
      return x;
  }
}

}  // namespace zml::cpu::ZML_ISA
