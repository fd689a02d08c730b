// The products of a few rows with dense weights.
#pragma once

#include "zml/kernels/cpu/native/linear.h"
#include "zml/kernels/cpu/native/linear_tiles.h"

namespace zml::cpu::ZML_ISA {
namespace {

// What of x is used again and again should stay in a first-level cache of 32 KB or more.
constexpr size_t kCachedBytes = 16 * 1024;
// How far ahead memory is asked for, in each of the rows that are read side by side.
constexpr size_t kAheadBytes = 512;

// Tiles of x's rows by the weight's: as many as there are registers for, beside the numbers they are the sums of.
constexpr int kTileRows = kRegisters == 32 ? 6 : 5;
constexpr int TileWidth(int rows) { return kRegisters == 32 || rows <= 2 ? 4 : rows == 3 ? 3 : 2; }

// A kind says how `kStep` columns of a row are multiplied, in kParts vectors.

// By bfloat16 x where the processor multiplies pairs of bfloat16.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct Bf16Pairs {
  typedef uint16_t Element;
  typedef uint16_t X;
  typedef U16 Vector;
  static constexpr int kStep = 2 * kLanes, kParts = 1;
  ZML_INLINE Vector Weight(const Element* w, int) { return Load<U16>(w); }
  ZML_INLINE F32 Add(Vector w, const X* x, int, F32 sum) {
#if defined(__AVX512BF16__)
    return (F32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)Load<U16>(x));
#else
    return (F32)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)w, (bfloat16x8_t)Load<U16>(x));
#endif
  }
};
#endif

// The even columns of a vector, then the odd ones: a shift and a mask make floats of them. x is stored to match.
struct Bf16Split {
  typedef uint16_t Element;
  typedef float X;
  typedef F32 Vector;
  static constexpr int kStep = 2 * kLanes, kParts = 2;
  ZML_INLINE Vector Weight(const Element* w, int part) {
    const U32 pairs = Load<U32>(w);
    return (F32)(part == 0 ? pairs << 16 : pairs & 0xffff0000u);
  }
  ZML_INLINE F32 Add(Vector w, const X* x, int part, F32 sum) { return Fma(w, Load<F32>(x + part * kLanes), sum); }
};

struct F16 {
  typedef uint16_t Element;
  typedef float X;
  typedef F32 Vector;
  static constexpr int kStep = kLanes, kParts = 1;
  ZML_INLINE Vector Weight(const Element* w, int) { return LoadF16(w); }
  ZML_INLINE F32 Add(Vector w, const X* x, int, F32 sum) { return Fma(w, Load<F32>(x), sum); }
};

struct Float {
  typedef float Element;
  typedef float X;
  typedef F32 Vector;
  static constexpr int kStep = kLanes, kParts = 1;
  ZML_INLINE Vector Weight(const Element* w, int) { return Load<F32>(w); }
  ZML_INLINE F32 Add(Vector w, const X* x, int, F32 sum) { return Fma(w, Load<F32>(x), sum); }
};

// Calls `f` with the kind of these types.
template <typename F>
ZML_INLINE auto WithKind(Type weight, Type x, F f) {
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  if (weight == Type::kBF16 && x == Type::kBF16) return f(Bf16Pairs());
#else
  (void)x;
#endif
  if (weight == Type::kBF16) return f(Bf16Split());
  if (weight == Type::kF16) return f(F16());
  return f(Float());
}

// The columns that x is divided into, so that a chunk of all its rows stays in the cache: x is stored as [chunks, m,
// columns], filled up with zeros.
template <typename Kind>
ZML_INLINE size_t ChunkColumns(size_t m, size_t k) {
  const size_t all = Ceil(k, Kind::kStep) * Kind::kStep;
  const size_t cached = kCachedBytes / sizeof(typename Kind::X) / m / Kind::kStep * Kind::kStep;
  return m == 1 ? all : Min(all, cached);
}

// The rows of a weight that have sums at a time, where there are m rows of x.
ZML_INLINE size_t BlockRows(size_t m) { return kMaxPart / m / kBlock * kBlock; }

// Adds the products of a tile, over `steps` steps, to sums [M, BlockRows], each of a row of the weight `apart` rows from the
// one before. `next` is what is read after this.
template <typename Kind, int M, int N>
ZML_INLINE void Tile(const typename Kind::Element* w, size_t w_stride, const typename Kind::Element* next,
                     const typename Kind::X* x, size_t x_stride, size_t steps, F32* sums, size_t sums_stride, size_t apart) {
  constexpr size_t kStep = Kind::kStep, kLine = 64 / sizeof(*w), kLineSteps = kLine > kStep ? kLine / kStep : 1;
  F32 acc[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) acc[m][n] = sums[m * sums_stride + n * apart];
  }
  const auto step = [&] {
    for (int part = 0; part < Kind::kParts; ++part) {
      typename Kind::Vector weight[N];
      for (int n = 0; n < N; ++n) weight[n] = Kind::Weight(w + n * w_stride, part);
      for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) acc[m][n] = Kind::Add(weight[n], x + m * x_stride, part, acc[m][n]);
      }
    }
    w += kStep;
    x += kStep;
  };
  // Memory is asked for some lines ahead, the last ones for what comes next.
  const size_t lines = steps / kLineSteps, last = Min(lines, kAheadBytes / 64);
  const typename Kind::Element* ahead = w + last * kLine;
  for (size_t line = 0; line < lines; ++line) {
    if (line == lines - last) ahead = next;
    for (int n = 0; n < N; ++n) Prefetch(ahead + n * w_stride);
    ahead += kLine;
    for (size_t i = 0; i < kLineSteps; ++i) step();
  }
  for (size_t i = lines * kLineSteps; i < steps; ++i) step();
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) sums[m * sums_stride + n * apart] = acc[m][n];
  }
}

// A chunk of M rows of x with `count` rows of a weight; `tail` columns are left over after the steps.
template <typename Kind, int M>
void Rows(const typename Kind::Element* w, size_t w_stride, size_t count, const typename Kind::Element* next,
          const typename Kind::X* x, size_t x_stride, size_t steps, size_t tail, F32* sums, size_t sums_stride) {
  constexpr int kWidth = TileWidth(M), kStep = Kind::kStep;
  size_t n = 0;
  if (count % kWidth == 0) {
    // Rows that are far apart are read faster side by side than neighbours, the more so the longer each goes on.
    const size_t apart = count / kWidth;
    for (; n < apart; ++n) {
      const typename Kind::Element* here = w + n * w_stride;
      Tile<Kind, M, kWidth>(here, apart * w_stride, n + 1 < apart ? here + w_stride : next, x, x_stride, steps, sums + n, sums_stride, apart);
    }
    n = count;
  }
  for (; n + kWidth <= count; n += kWidth) {
    const typename Kind::Element* here = w + n * w_stride;
    Tile<Kind, M, kWidth>(here, w_stride, n + kWidth < count ? here + kWidth * w_stride : next, x, x_stride, steps, sums + n, sums_stride, 1);
  }
  for (; n < count; ++n) Tile<Kind, M, 1>(w + n * w_stride, 0, w + (n + 1) * w_stride, x, x_stride, steps, sums + n, sums_stride, 0);
  if (tail == 0) return;
  for (n = 0; n < count; ++n) {
    // No byte behind a row's end is read.
    typename Kind::Element last[kStep] = {};
    __builtin_memcpy(last, w + n * w_stride + steps * kStep, tail * sizeof(last[0]));
    Tile<Kind, M, 1>(last, 0, last, x + steps * kStep, x_stride, 1, sums + n, sums_stride, 0);
  }
}

template <typename Kind>
ZML_INLINE void MultiplyDense(const Weight& weight, const void* prepared, size_t m, size_t k, size_t begin, size_t end,
                              const void* after, float* out, size_t stride) {
  typedef typename Kind::Element Element;
  typedef typename Kind::X X;
  const size_t columns = ChunkColumns<Kind>(m, k);
  const size_t block = BlockRows(m);
  for (size_t first = begin; first < end; first += block) {
    const size_t count = Min(block, end - first);
    const Element* w = static_cast<const Element*>(weight.values) + first * k;
    const Element* next_block = first + block < end ? w + block * k : static_cast<const Element*>(after);
    const X* x = static_cast<const X*>(prepared);
    F32 sums[kMaxPart];
    for (size_t i = 0; i < m * block; ++i) sums[i] = F32{};
    for (size_t column = 0; column < k; column += columns, x += m * columns) {
      const size_t here = Min(columns, k - column), steps = here / Kind::kStep, tail = here % Kind::kStep;
      for (size_t row = 0, rows; row < m; row += rows) {
        rows = TileRowsOf(m - row, kTileRows);
        // The first of the rows of x brings the weights into the cache.
        const Element* next = row + rows < m ? w + column : column + here < k ? w + column + columns : next_block;
        WithCount<kTileRows>(rows, [&](auto tile) {
          Rows<Kind, decltype(tile)::kValue>(w + column, k, count, next, x + row * columns, columns, steps, tail, sums + row * block, block);
        });
      }
    }
    for (size_t row = 0; row < m; ++row) {
      for (size_t n = 0; n < count; ++n) out[row * stride + first - begin + n] = Sum(sums[row * block + n]);
    }
  }
}

template <typename Kind>
ZML_INLINE void PrepareDense(Type type, const void* from, size_t m, size_t k, void* prepared) {
  typename Kind::X* to = static_cast<typename Kind::X*>(prepared);
  const size_t columns = ChunkColumns<Kind>(m, k);
  for (size_t column = 0; column < k; column += columns) {
    for (size_t row = 0; row < m; ++row, to += columns) {
      const void* x = At(type, from, row * k + column);
      const size_t count = Min(columns, k - column);
      if constexpr (sizeof(*to) == 2) {
        __builtin_memcpy(to, x, count * 2);
        __builtin_memset(to + count, 0, (columns - count) * 2);
      } else {
        ToFloats(type, x, count, columns, to);
        for (size_t i = 0; Kind::kParts == 2 && i < columns; i += 2 * kLanes) {
          float apart[2 * kLanes];
          for (int lane = 0; lane < kLanes; ++lane) {
            apart[lane] = to[i + 2 * lane];
            apart[kLanes + lane] = to[i + 2 * lane + 1];
          }
          __builtin_memcpy(to + i, apart, sizeof(apart));
        }
      }
    }
  }
}

template <typename Kind>
ZML_INLINE size_t DenseBytes(size_t m, size_t k) {
  const size_t columns = ChunkColumns<Kind>(m, k);
  return k == 0 ? 0 : Ceil(k, columns) * columns * m * sizeof(typename Kind::X);
}

}  // namespace
}  // namespace zml::cpu::ZML_ISA
