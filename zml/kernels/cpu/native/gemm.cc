#include "zml/kernels/cpu/native/gemm.h"

#include <algorithm>
#include <utility>

#include "zml/kernels/cpu/native/scratch.h"

namespace zml::cpu {
namespace {

// Words of a block of K: a panel of a weight that long stays in the first-level cache, half of which is 16 KB.
constexpr size_t kWords = 256;
// Rows of x whose panels stay in the second-level cache, being 256 KB.
constexpr size_t kRows = 256;
// Columns that a worker has at a time at most.
constexpr size_t kColumns = 64;
// What x is packed into at a time, for all workers.
constexpr size_t kPackedBytes = size_t{8} << 20;

size_t Ceil(size_t a, size_t b) { return (a + b - 1) / b; }

// `count` things in `parts` as equal as can be, the larger ones first: where a part begins.
size_t Begin(size_t count, size_t parts, size_t part) {
  return count / parts * part + std::min(part, count % parts);
}

size_t SizeOf(Type type) { return type == Type::kF32 ? 4 : 2; }

const void* At(const void* x, Type type, size_t i) { return x == nullptr ? nullptr : static_cast<const char*>(x) + i * SizeOf(type); }

// The weight's bytes for the columns from n on, `count` if there are so many, and as many elements of K from `begin` on.
GemmAhead AheadOf(const Weight& weight, size_t k, size_t n, size_t columns, size_t begin, size_t elements) {
  columns = std::min(columns, weight.n - n);
  elements = std::min(elements, k - begin);
  const char* values = static_cast<const char*>(weight.values);
  if (weight.format == Format::kDense) {
    const size_t size = SizeOf(weight.type);
    return {values + (n * k + begin) * size, k * size, columns, elements * size};
  }
  const size_t group = weight.format == Format::kInt4 ? 256 : 512, stride = Ceil(k, kGroup) * group;
  return {values + n / 16 * stride + begin / kGroup * group, stride, Ceil(columns, 16), Ceil(elements, kGroup) * group};
}

}  // namespace

void Gemm(const Kernels& isa, Pool& pool, size_t workers, const LinearTask& task) {
  const GemmKernels& kernels = *isa.gemm;
  const Weight& some = task.weights[0];
  const Product product = kernels.product(some.format, some.type, task.x_type);
  const bool grouped = product == Product::kInt16, gated = task.activation != Activation::kNone;
  const size_t elements = product == Product::kF32 ? 1 : 2, panel_rows = kernels.rows(product);
  const size_t block_k = kWords * elements, blocks = Ceil(task.k, block_k);
  const size_t words = grouped ? Ceil(task.k, kGroup) * kGroup / 2 : Ceil(task.k, elements), groups = grouped ? words / 16 : 0;

  // Rows are packed as many at a time as the scratch memory has room for; these are cut into blocks.
  const size_t most_rows = std::max(panel_rows, std::min(task.m, kPackedBytes / (4 * (words + groups))));
  const size_t chunks = Ceil(task.m, most_rows), chunk_rows = Ceil(task.m, chunks);
  const size_t row_blocks = Ceil(chunk_rows, kRows), block_rows = Ceil(Ceil(chunk_rows, row_blocks), panel_rows) * panel_rows;

  // Columns: enough parts for every worker to have several.
  const size_t outputs = gated ? 1 : task.count;
  size_t part_columns = std::max(kColumns / kernels.columns, size_t{1}) * kernels.columns, column_blocks[3], parts = 0;
  for (;; part_columns = std::max(part_columns / 2 / kernels.columns, size_t{1}) * kernels.columns) {
    parts = 0;
    for (size_t i = 0; i < outputs; ++i) parts += column_blocks[i] = Ceil(task.weights[i].n, part_columns);
    if (part_columns == kernels.columns || parts * row_blocks >= 4 * workers) break;
  }

  // Which weight's columns a part has, and the first of them.
  const auto columns_of = [&](size_t part) {
    size_t output = 0;
    for (; part >= column_blocks[output]; ++output) part -= column_blocks[output];
    return std::pair(output, part * part_columns);
  };

  const size_t weight_words = kWords * part_columns, weight_scales = grouped ? weight_words / 16 : 0, sums = block_rows * part_columns;
  const size_t worker_bytes = Scratch::Bytes<uint32_t>(weight_words) + Scratch::Bytes<float>(weight_scales) + (gated ? 2 : 1) * Scratch::Bytes<float>(sums);
  Scratch scratch(Scratch::Bytes<uint32_t>(chunk_rows * words) + Scratch::Bytes<float>(chunk_rows * groups) + workers * worker_bytes);
  uint32_t* const x_words = scratch.Take<uint32_t>(chunk_rows * words);
  float* const x_scales = scratch.Take<float>(chunk_rows * groups);
  char* const own = scratch.Take<char>(workers * worker_bytes);

  const size_t x_stride = task.k * SizeOf(task.x_type);
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const size_t chunk_begin = Begin(task.m, chunks, chunk), chunk_end = Begin(task.m, chunks, chunk + 1);
    const size_t rows_here = chunk_end - chunk_begin, row_blocks_here = Ceil(rows_here, block_rows);
    // A block of K of a block of rows is contiguous.
    const auto rows_of = [&](size_t row_block) { return std::min(block_rows, rows_here - row_block * block_rows); };

    const size_t block_panels = block_rows / panel_rows;
    Parallel(pool, workers, row_blocks_here * block_panels, [&](size_t part, size_t) {
      const size_t first = part / block_panels * block_rows, rows = rows_of(part / block_panels), panels = Ceil(rows, panel_rows);
      const size_t panel = part % block_panels;
      if (panel >= panels) return;
      const size_t begin = Begin(rows, panels, panel), end = Begin(rows, panels, panel + 1);
      const char* from = static_cast<const char*>(task.x) + (chunk_begin + first + begin) * x_stride;
      for (size_t block = 0; block < blocks; ++block) {
        const size_t k = block * block_k, k_end = std::min(task.k, k + block_k), word = block * kWords, here = std::min(kWords, words - word);
        kernels.pack_x(product, task.x_type, from, x_stride, end - begin, k, k_end, x_words + first * words + rows * word + begin * here,
                       x_scales + first * groups + (rows * word + begin * here) / 16);
      }
    });

    Parallel(pool, workers, parts * row_blocks_here, [&](size_t part, size_t worker) {
      const auto [output, n] = columns_of(part / row_blocks_here);
      const size_t row_block = part % row_blocks_here, first = row_block * block_rows, rows = rows_of(row_block);
      const size_t n_count = std::min(part_columns, task.weights[output].n - n);
      // The part that this worker is likely to do next.
      const auto [next_output, next_n] = columns_of(std::min((part + workers) / row_blocks_here, parts - 1));
      void* const y = const_cast<void*>(At(task.y[output], task.y_type, (chunk_begin + first) * task.weights[output].n + n));
      const size_t y_stride = task.weights[output].n * SizeOf(task.y_type);
      const size_t columns = Ceil(n_count, kernels.columns) * kernels.columns;

      char* mine = own + worker * worker_bytes;
      uint32_t* const w_words = reinterpret_cast<uint32_t*>(mine);
      float* const w_scales = reinterpret_cast<float*>(mine += Scratch::Bytes<uint32_t>(weight_words));
      float* const own_sums = reinterpret_cast<float*>(mine += Scratch::Bytes<float>(weight_scales));
      if (task.k == 0) std::fill(own_sums, own_sums + (gated ? 2 : 1) * sums, 0.0f);
      for (size_t block = 0; block < blocks; ++block) {
        const size_t k = block * block_k, k_end = std::min(task.k, k + block_k), word = block * kWords, here = std::min(kWords, words - word);
        for (size_t side = 0; side < (gated ? 2 : 1); ++side) {
          const Weight& weight = task.weights[output + side];
          const bool last = block + 1 == blocks;
          const GemmAhead next = !gated || side == 1 ? AheadOf(task.weights[last ? next_output : output], task.k, last ? next_n : n, part_columns, last ? 0 : k_end, block_k)
                                                     : AheadOf(task.weights[1], task.k, n, part_columns, k, block_k);
          for (size_t column = 0; column < columns; column += kernels.columns) {
            kernels.pack_weight(product, weight, task.k, n + column, k, k_end, w_words + column * here, w_scales + column * here / 16);
          }
          kernels.multiply({
              .product = product,
              .first = block == 0,
              .words = here,
              .rows = rows,
              .columns = columns,
              .x = x_words + first * words + rows * word,
              .x_scales = x_scales + (first * words + rows * word) / 16,
              .weight = w_words,
              .weight_scales = w_scales,
              .sums = own_sums + side * sums,
              .stride = part_columns,
              .ahead = {next, last ? GemmAhead{static_cast<const char*>(y), y_stride, rows, n_count * SizeOf(task.y_type)} : GemmAhead{}},
          });
        }
      }
      for (size_t row = 0; row < rows; ++row) {
        isa.linear->finish({
            .n = n_count,
            .sums = own_sums + row * part_columns,
            .up = gated ? own_sums + sums + row * part_columns : nullptr,
            .bias_type = task.bias_type,
            .bias = At(task.bias[output], task.bias_type, n),
            .up_bias = gated ? At(task.bias[1], task.bias_type, n) : nullptr,
            .activation = task.activation,
            .y_type = task.y_type,
            .y = static_cast<char*>(y) + row * y_stride,
        });
      }
    });
  }
}

}  // namespace zml::cpu
