// Quantizing weights: from rows of a matrix to the packed formats of formats.md.
#pragma once

#include <cstddef>

#include "zml/kernels/cpu/native/kernels.h"

namespace zml::cpu {

struct QuantizeKernels {
  // Quantizes the matrix w [rows, columns], row-major and of any alignment, to ceil(rows / 16) blocks of `values` and
  // `scales`. All but the last part of a larger matrix have a multiple of 16 rows. False where an element is NaN or
  // infinite; then the results mean nothing. The results are the same on all instruction sets:
  //
  // int8: scale = largest |w| / 127 rounded up to bfloat16, q = w / scale rounded to even.
  // int8 per channel: the same over the row, and the scale is not rounded further.
  // int4: of the scales m / d, m the element of the largest magnitude and d of a dozen divisors (kDivisors), each rounded
  // to the nearest bfloat16, the one with the smallest sum of squared errors; q = w * (1 / scale), rounded to even, cut to
  // -8 ... 7.
  //
  // A scale is 0 where all elements are, and else at least 2^-126 in magnitude.
  bool (*quantize)(Format format, Type type, const void* w, size_t rows, size_t columns, void* values, void* scales);
};

}  // namespace zml::cpu
