#include "zml/kernels/cpu/native/linear.h"

#include <algorithm>

#include "zml/kernels/cpu/native/gemm.h"
#include "zml/kernels/cpu/native/parallel.h"
#include "zml/kernels/cpu/native/scratch.h"

namespace zml::cpu {
namespace {

// The bytes of weights that a worker takes at a time: reading starts anew with each part and, in it, with each of two weights,
// before memory is as fast as it can be; few enough that no worker is left with work for long when the others are done.
constexpr size_t kPartBytes = 512 * 1024;
// Parts are of whole blocks of rows of the packed formats.
constexpr size_t kBlock = 16;

size_t Ceil(size_t a, size_t b) { return (a + b - 1) / b; }

size_t RowBytes(const Weight& weight, size_t k) {
  switch (weight.format) {
    case Format::kDense:
      return weight.type == Type::kF32 ? 4 * k : 2 * k;
    case Format::kInt4:
      return k / 2;
    default:
      return k;
  }
}

// Where the row `row` of a weight begins, a multiple of 16 or the end.
const void* Rows(const Weight& weight, size_t k, size_t row) {
  const size_t columns = weight.format == Format::kDense ? k : Ceil(k, 32) * 32;
  return static_cast<const char*>(weight.values) + row * RowBytes(weight, columns);
}

const void* At(const void* x, Type type, size_t i) {
  return x == nullptr ? nullptr : static_cast<const char*>(x) + i * (type == Type::kF32 ? 4 : 2);
}

// The rows of x from `row` on, at most kMaxRows.
void Few(const LinearKernels& kernels, Pool& pool, size_t workers, const LinearTask& task, size_t row, size_t m) {
  const bool gated = task.activation != Activation::kNone;
  const size_t outputs = gated ? 1 : task.count, k = task.k;

  // As many rows of a weight at a time as are worth it, but enough parts for all workers.
  const size_t row_bytes = RowBytes(task.weights[0], k) * (gated ? 2 : 1);
  size_t part_rows = std::min(kMaxPart, Ceil(kPartBytes, (row_bytes + 1) * kBlock) * kBlock), parts = 0;
  for (;; part_rows = Ceil(part_rows / 2, kBlock) * kBlock) {
    parts = 0;
    for (size_t i = 0; i < outputs; ++i) parts += Ceil(task.weights[i].n, part_rows);
    if (part_rows == kBlock || parts >= 4 * workers) break;
  }

  const size_t bytes = kernels.prepared_bytes(task.weights[0], task.x_type, m, k);
  Scratch scratch(bytes);
  char* const prepared = scratch.Take<char>(bytes);
  kernels.prepare(task.weights[0], task.x_type, At(task.x, task.x_type, row * k), m, k, prepared);

  Parallel(pool, workers, parts, [&](size_t part, size_t) {
    size_t i = 0;
    for (size_t of_weight; part >= (of_weight = Ceil(task.weights[i].n, part_rows)); ++i) part -= of_weight;
    const size_t n = task.weights[i].n, begin = part * part_rows, end = std::min(n, begin + part_rows);
    alignas(64) float sums[2][kMaxRows * kMaxPart];
    if (gated) {
      const Weight &gate = task.weights[0], &up = task.weights[1];
      kernels.multiply(gate, task.x_type, prepared, m, k, begin, end, Rows(up, k, begin), sums[0], kMaxPart);
      kernels.multiply(up, task.x_type, prepared, m, k, begin, end, Rows(gate, k, end), sums[1], kMaxPart);
    } else {
      // A thread's parts lie together.
      const Weight& weight = task.weights[i];
      kernels.multiply(weight, task.x_type, prepared, m, k, begin, end, Rows(weight, k, end), sums[0], kMaxPart);
    }
    for (size_t r = 0; r < m; ++r) {
      kernels.finish({
          .n = end - begin,
          .sums = sums[0] + r * kMaxPart,
          .up = gated ? sums[1] + r * kMaxPart : nullptr,
          .bias_type = task.bias_type,
          .bias = At(task.bias[i], task.bias_type, begin),
          .up_bias = gated ? At(task.bias[1], task.bias_type, begin) : nullptr,
          .activation = task.activation,
          .y_type = task.y_type,
          .y = const_cast<void*>(At(task.y[i], task.y_type, (row + r) * n + begin)),
      });
    }
  });
}

}  // namespace

void Linear(const Kernels& kernels, Pool& pool, size_t workers, const LinearTask& task) {
  if (task.m > kMaxRows) return Gemm(kernels, pool, workers, task);
  const size_t blocks = Ceil(task.m, kMaxRows);
  for (size_t block = 0, row = 0; block < blocks; ++block) {
    const size_t m = Ceil(task.m - row, blocks - block);
    Few(*kernels.linear, pool, workers, task, row, m);
    row += m;
  }
}

}  // namespace zml::cpu
