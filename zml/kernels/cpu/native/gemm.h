// The product of many rows with weights: y = x w^T, by blocks.
//
// x and the weights are packed into panels of 32-bit words, so that one loop serves all ways of multiplying: a word is one
// float, or two bfloat16 or int16 numbers that follow each other in K. A panel of x is [words, rows], one of a weight
// [words, columns]. A panel's rows may be fewer than GemmKernels::rows, its columns are always GemmKernels::columns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "zml/kernels/cpu/native/kernels.h"
#include "zml/kernels/cpu/native/linear.h"
#include "zml/kernels/cpu/native/parallel.h"

namespace zml::cpu {

// How words are multiplied. All sum up in float32; kInt16 in int32 within a group of 32.
enum class Product : int32_t { kF32, kBF16, kInt16 };

// Columns of K that share scales, and the words of int16 that they make.
constexpr int kGroup = 32, kPairs = kGroup / 2;

// What will be wanted next: `count` runs of `bytes`, every `stride` bytes.
struct GemmAhead {
  const char* from;
  size_t stride, count, bytes;
};

// A part of the product: x [rows, K block] with weights [columns, K block], added to `sums`.
struct GemmBlock {
  Product product;
  bool first;  // the block is K's first: what `sums` held is void
  size_t words;
  size_t rows, columns;  // columns: a multiple of a panel's
  // Panels of ceil(rows / kernels.rows) as equal heights as can be, the higher ones first; and the scales [groups, rows] of
  // each, if the product has such.
  const uint32_t* x;
  const float* x_scales;
  const uint32_t* weight;
  const float* weight_scales;  // [groups, columns] of each panel
  float* sums;                 // [rows, stride]
  size_t stride;
  GemmAhead ahead[2];  // fetched into the second-level cache meanwhile
};

struct GemmKernels {
  size_t columns;  // of a weight's panel
  // How weights and activations of these types are multiplied.
  Product (*product)(Format format, Type weight, Type x);
  // The most rows that a panel of x has.
  size_t (*rows)(Product product);
  // Packs `rows` rows, at x and every stride_bytes, from k_begin to k_end; beyond, words and groups are filled with zeros.
  void (*pack_x)(Product product, Type type, const void* x, size_t stride_bytes, size_t rows, size_t k_begin,
                 size_t k_end, uint32_t* words, float* scales);
  // Packs one panel of a weight [n, k]: the columns from n on (those beyond the weight's last are anything), from k_begin, a
  // multiple of a group, to k_end.
  void (*pack_weight)(Product product, const Weight& weight, size_t k, size_t n, size_t k_begin, size_t k_end, uint32_t* words,
                      float* scales);
  void (*multiply)(const GemmBlock& block);
};

// Does the task on the pool's threads. Results do not depend on how many there are, nor do those of a row on the other rows.
// Works in up to 8 MB of scratch memory for x, or 12 rows of it if they are larger, and 0.3 MB a worker.
void Gemm(const Kernels& kernels, Pool& pool, size_t workers, const LinearTask& task);

}  // namespace zml::cpu
