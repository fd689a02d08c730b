// Linear layers: y = x w^T + bias for weights that share x, and activation(gate) * up of two of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "zml/kernels/cpu/native/kernels.h"

namespace zml::cpu {

class Pool;

// What is done with the sums of a gate; kNone: there is no gate.
enum class Activation : int32_t { kNone, kSilu, kGelu, kGeluTanh, kQuickGelu, kRelu, kRelu2, kSigmoid };

// A weight [n, k], see formats.md.
struct Weight {
  Format format;
  Type type;           // of the values, if dense
  const void* values;  // of any alignment that suits the type
  const void* scales;  // null if dense
  size_t n;
};

constexpr size_t kMaxWeights = 3;

// y[i] [m, n_i] = x [m, k] weights[i]^T + bias[i]; or, with an activation, of two weights of equal n
// y[0] = activation(x weights[0]^T + bias[0]) * (x weights[1]^T + bias[1]). Sums are float32, and rounded once, to y.
struct LinearTask {
  size_t m, k;
  Type x_type;
  const void* x;
  size_t count;
  Weight weights[kMaxWeights];  // of one format and type
  Type bias_type;
  const void* bias[kMaxWeights];  // [n_i], or null
  Activation activation;
  Type y_type;
  void* y[kMaxWeights];
};

// What becomes of the sums of a part of a row.
struct LinearFinish {
  size_t n;           // how many
  const float* sums;  // of the gate, if there is an activation
  const float* up;    // null without an activation
  Type bias_type;
  const void* bias;  // of these n, or null
  const void* up_bias;
  Activation activation;
  Type y_type;
  void* y;
};

// The kernels for few rows of x. Sums do not depend on how rows of x or of a weight are divided among calls.
struct LinearKernels {
  // x is converted, or quantized, once for all weights of one format and type: the bytes of m rows of it.
  size_t (*prepared_bytes)(const Weight& weight, Type x_type, size_t m, size_t k);
  // Converts x [m, k] into memory that is aligned to 64 bytes.
  void (*prepare)(const Weight& weight, Type x_type, const void* x, size_t m, size_t k, void* prepared);
  // sums [m, stride] = prepared x times the rows begin ... end of the weight. m is at most kMaxRows, end - begin at most
  // kMaxPart, begin a multiple of 16. `next`: values that the same thread will multiply with after this, if it does.
  void (*multiply)(const Weight& weight, Type x_type, const void* prepared, size_t m, size_t k, size_t begin, size_t end,
                   const void* next, float* sums, size_t stride);
  // Of use to all products.
  void (*finish)(const LinearFinish& finish);
};

constexpr size_t kMaxRows = 16, kMaxPart = 256;

// Does the task on the pool's threads. Results do not depend on how many there are.
void Linear(const Kernels& kernels, Pool& pool, size_t workers, const LinearTask& task);

}  // namespace zml::cpu
