#include "zml/kernels/cpu/native/gemm.h"

#include <algorithm>
#include <utility>

#include "zml/kernels/cpu/native/scratch.h"

namespace zml::cpu {
namespace {

// Words of a block of K: a panel of a weight that long, 16 or 32 KB, stays in the first-level cache.
constexpr size_t kWords = 256;
// Rows whose panels of one block of K, 256 KB, stay in the second-level cache.
constexpr size_t kRows = 256;
// Columns of a part, at most: 64 KB of a weight's panels, 64 KB of sums.
constexpr size_t kColumns = 64;
// What of x is packed at a time, for all workers.
constexpr size_t kPackedBytes = size_t{8} << 20;

size_t Ceil(size_t a, size_t b) { return (a + b - 1) / b; }

// Where a part begins, if `count` are divided into parts as equal as can be, the larger ones first.
size_t Begin(size_t count, size_t parts, size_t part) { return count / parts * part + std::min(part, count % parts); }

size_t SizeOf(Type type) { return type == Type::kF32 ? 4 : 2; }

const void* At(const void* x, Type type, size_t i) {
  return x == nullptr ? nullptr : static_cast<const char*>(x) + i * SizeOf(type);
}

// A range of K, in elements and in words.
struct Block {
  size_t k, k_end, word, words;
};

// How a task is divided. Rows are packed a chunk at a time. A part of the work is a block of the chunk's rows with some
// columns of a weight, over all of K; it has its sums beside it, so that they come out the same whoever does it.
class Plan {
 private:
  const LinearTask& task_;

 public:
  const Product product;
  const bool gated;
  const size_t sides;  // weights of a part
  const bool grouped;
  const size_t elements;  // of a word
  const size_t words, blocks, panel_rows;
  size_t chunks, chunk_rows, block_rows, columns, column_parts;

  Plan(const GemmKernels& kernels, const LinearTask& task, size_t workers)
      : task_(task),
        product(kernels.product(task.weights[0].format, task.weights[0].type, task.x_type)),
        gated(task.activation != Activation::kNone),
        sides(gated ? 2 : 1),
        grouped(product == Product::kInt16),
        elements(product == Product::kF32 ? 1 : 2),
        words(grouped ? Ceil(task.k, kGroup) * kPairs : Ceil(task.k, elements)),
        blocks(Ceil(words, kWords)),
        panel_rows(kernels.rows(product)) {
    const size_t row_bytes = 4 * (words + Groups(words)) + 1;
    const size_t most_rows = std::max(panel_rows, std::min(task.m, kPackedBytes / row_bytes));
    chunks = Ceil(task.m, most_rows);
    chunk_rows = Ceil(task.m, chunks);
    block_rows = Ceil(Ceil(chunk_rows, Ceil(chunk_rows, kRows)), panel_rows) * panel_rows;
    // Enough parts for all workers to have several.
    for (columns = std::max(kColumns, kernels.columns);; columns = std::max(columns / 2, kernels.columns)) {
      column_parts = 0;
      for (size_t i = 0; i < Outputs(); ++i) column_parts += Ceil(task.weights[i].n, columns);
      if (columns == kernels.columns || column_parts * RowBlocks(chunk_rows) >= 4 * workers) break;
    }
  }

  size_t Outputs() const { return gated ? 1 : task_.count; }
  // Groups in so many words of a product that has scales.
  size_t Groups(size_t words) const { return grouped ? words / kPairs : 0; }
  size_t RowBlocks(size_t rows) const { return Ceil(rows, block_rows); }

  Block BlockOf(size_t block) const {
    const size_t word = block * kWords, here = std::min(kWords, words - word);
    return {word * elements, std::min(task_.k, (word + here) * elements), word, here};
  }

  // Which weight's columns a part has, and the first of them.
  std::pair<size_t, size_t> ColumnsOf(size_t part) const {
    size_t output = 0;
    for (size_t parts; part >= (parts = Ceil(task_.weights[output].n, columns)); ++output) part -= parts;
    return {output, part * columns};
  }

  // A block of K of some columns, or less at an end, as it lies in memory.
  GemmAhead Stored(const Weight& weight, size_t n, size_t block) const {
    const size_t count = std::min(columns, weight.n - n);
    const Block b = BlockOf(block);
    const char* values = static_cast<const char*>(weight.values);
    if (weight.format == Format::kDense) {
      const size_t size = SizeOf(weight.type);
      return {values + (n * task_.k + b.k) * size, task_.k * size, count, (b.k_end - b.k) * size};
    }
    const size_t group = weight.format == Format::kInt4 ? 256 : 512, stride = Ceil(task_.k, kGroup) * group;
    return {values + n / 16 * stride + b.k / kGroup * group, stride, Ceil(count, 16), Ceil(b.k_end - b.k, kGroup) * group};
  }
};

// Packs panel `panel` of a block of `rows` rows at x, block by block of K.
void PackPanel(const GemmKernels& kernels, const Plan& plan, const LinearTask& task, const char* x, size_t rows,
               size_t panel, uint32_t* words, float* scales) {
  const size_t panels = Ceil(rows, plan.panel_rows), stride = task.k * SizeOf(task.x_type);
  const size_t begin = Begin(rows, panels, panel), end = Begin(rows, panels, panel + 1);
  for (size_t block = 0; block < plan.blocks; ++block) {
    const Block b = plan.BlockOf(block);
    const size_t at = rows * b.word + begin * b.words;
    kernels.pack_x(plan.product, task.x_type, x + begin * stride, stride, end - begin, b.k, b.k_end, words + at,
                   scales + plan.Groups(at));
  }
}

}  // namespace

void Gemm(const Kernels& isa, Pool& pool, size_t workers, const LinearTask& task) {
  if (task.m == 0) return;
  const GemmKernels& kernels = *isa.gemm;
  const Plan plan(kernels, task, workers);
  if (plan.column_parts == 0) return;

  const size_t x_words = plan.chunk_rows * plan.words, x_groups = plan.Groups(x_words);
  const size_t panel_words = kWords * plan.columns, panel_groups = plan.Groups(panel_words);
  const size_t sums_size = plan.block_rows * plan.columns;
  const size_t own_bytes = Scratch::Bytes<uint32_t>(panel_words) + Scratch::Bytes<float>(panel_groups) +
                           plan.sides * Scratch::Bytes<float>(sums_size);
  Scratch scratch(Scratch::Bytes<uint32_t>(x_words) + Scratch::Bytes<float>(x_groups) + workers * own_bytes);
  uint32_t* const x_packed = scratch.Take<uint32_t>(x_words);
  float* const x_scales = scratch.Take<float>(x_groups);
  char* const own = scratch.Take<char>(workers * own_bytes);

  for (size_t chunk = 0; chunk < plan.chunks; ++chunk) {
    const size_t row = Begin(task.m, plan.chunks, chunk), rows = Begin(task.m, plan.chunks, chunk + 1) - row;
    const size_t row_blocks = plan.RowBlocks(rows), block_panels = plan.block_rows / plan.panel_rows;
    const auto rows_of = [&](size_t row_block) { return std::min(plan.block_rows, rows - row_block * plan.block_rows); };

    Parallel(pool, workers, Ceil(rows, plan.panel_rows), [&](size_t part, size_t) {
      const size_t row_block = part / block_panels, first = row_block * plan.block_rows;
      PackPanel(kernels, plan, task, static_cast<const char*>(At(task.x, task.x_type, (row + first) * task.k)),
                rows_of(row_block), part % block_panels, x_packed + first * plan.words,
                x_scales + plan.Groups(first * plan.words));
    });

    // The row blocks of the same columns follow one another, so that the columns are read from memory once.
    Parallel(pool, workers, plan.column_parts * row_blocks, [&](size_t part, size_t worker) {
      const auto [output, n] = plan.ColumnsOf(part / row_blocks);
      const size_t first = part % row_blocks * plan.block_rows, part_rows = rows_of(part % row_blocks);
      const size_t n_all = task.weights[output].n, n_count = std::min(plan.columns, n_all - n);
      const size_t columns = Ceil(n_count, kernels.columns) * kernels.columns;
      // What this worker is likely to do next.
      const auto [next, next_n] = plan.ColumnsOf(std::min((part + workers) / row_blocks, plan.column_parts - 1));
      char* const y = static_cast<char*>(task.y[output]) + ((row + first) * n_all + n) * SizeOf(task.y_type);
      const size_t y_stride = n_all * SizeOf(task.y_type);

      char* mine = own + worker * own_bytes;
      uint32_t* const packed = reinterpret_cast<uint32_t*>(mine);
      float* const scales = reinterpret_cast<float*>(mine += Scratch::Bytes<uint32_t>(panel_words));
      float* const sums = reinterpret_cast<float*>(mine += Scratch::Bytes<float>(panel_groups));
      if (task.k == 0) std::fill(sums, sums + plan.sides * sums_size, 0.0f);
      for (size_t step = 0; step < plan.blocks * plan.sides; ++step) {
        const size_t block = step / plan.sides, side = step % plan.sides;
        const Weight& weight = task.weights[output + side];
        const Block b = plan.BlockOf(block);
        for (size_t column = 0; column < columns; column += kernels.columns) {
          kernels.pack_weight(plan.product, weight, task.k, n + column, b.k, b.k_end, packed + column * b.words,
                              scales + plan.Groups(column * b.words));
        }
        const bool last = step + 1 == plan.blocks * plan.sides;
        const size_t x_at = first * plan.words + part_rows * b.word;
        kernels.multiply({
            .product = plan.product,
            .first = block == 0,
            .words = b.words,
            .rows = part_rows,
            .columns = columns,
            .x = x_packed + x_at,
            .x_scales = x_scales + plan.Groups(x_at),
            .weight = packed,
            .weight_scales = scales,
            .sums = sums + side * sums_size,
            .stride = plan.columns,
            .ahead = {last ? plan.Stored(task.weights[next], next_n, 0)
                           : plan.Stored(task.weights[output + (step + 1) % plan.sides], n, (step + 1) / plan.sides),
                      last ? GemmAhead{y, y_stride, part_rows, n_count * SizeOf(task.y_type)} : GemmAhead{}},
        });
      }
      for (size_t r = 0; r < part_rows; ++r) {
        isa.linear->finish({
            .n = n_count,
            .sums = sums + r * plan.columns,
            .up = plan.gated ? sums + sums_size + r * plan.columns : nullptr,
            .bias_type = task.bias_type,
            .bias = At(task.bias[output], task.bias_type, n),
            .up_bias = plan.gated ? At(task.bias[1], task.bias_type, n) : nullptr,
            .activation = task.activation,
            .y_type = task.y_type,
            .y = y + r * y_stride,
        });
      }
    });
  }
}

}  // namespace zml::cpu
