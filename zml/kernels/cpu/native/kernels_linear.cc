// The products of a few rows with weights: a weight is read once, and is bound by memory as long as the rows are few.

#include "zml/kernels/cpu/native/activation.h"
#include "zml/kernels/cpu/native/linear.h"
#include "zml/kernels/cpu/native/simd.h"

namespace zml::cpu::ZML_ISA {
namespace {

// Rows of a weight that have their sums at a time; the rows of a block of the packed formats.
constexpr size_t kBlock = 16;
constexpr size_t kGroup = 32;
// What of x is used again and again should stay in a first-level cache of 32 KB or more.
constexpr size_t kCachedBytes = 16 * 1024;
// How far ahead memory is asked for: in each of the rows of a dense weight that are read side by side; in a packed weight.
constexpr size_t kAheadBytes = 512, kPackedAheadBytes = 2048;

constexpr size_t Ceil(size_t a, size_t b) { return (a + b - 1) / b; }
constexpr size_t Min(size_t a, size_t b) { return a < b ? a : b; }

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// Tiles of x's rows by the weight's: as many as there are registers for, beside the numbers they are the sums of.
constexpr int kTileRows = kRegisters == 32 ? 6 : 5;
constexpr int TileWidth(int rows) { return kRegisters == 32 || rows <= 2 ? 4 : rows == 3 ? 3 : 2; }

// The rows of the next tile, of at most `most`, where `rest` rows are divided as evenly as can be.
ZML_INLINE size_t TileRowsOf(size_t rest, size_t most) { return Ceil(rest, Ceil(rest, most)); }

template <int value>
struct Constant {
  static constexpr int kValue = value;
};

// Calls `f` with the constant that `count`, of 1 to kMost, is.
template <int kMost, typename F>
ZML_INLINE void WithCount(size_t count, F f) {
  if constexpr (kMost == 1) {
    f(Constant<1>());
  } else if (count == kMost) {
    f(Constant<kMost>());
  } else {
    WithCount<kMost - 1>(count, f);
  }
}

// Dense weights. A kind says how `kStep` columns of a row are multiplied, in kParts vectors.

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

// Adds the products of a tile, over `steps` steps, to the sums [M, kBlock] of vectors. `next` is what is read after this.
template <typename Kind, int M, int N>
ZML_INLINE void Tile(const typename Kind::Element* w, size_t w_stride, const typename Kind::Element* next,
                     const typename Kind::X* x, size_t x_stride, size_t steps, F32* sums) {
  constexpr size_t kStep = Kind::kStep, kLine = 64 / sizeof(*w), kLineSteps = kLine > kStep ? kLine / kStep : 1;
  F32 acc[M][N];
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) acc[m][n] = sums[m * kBlock + n];
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
    for (int n = 0; n < N; ++n) sums[m * kBlock + n] = acc[m][n];
  }
}

// A chunk of M rows of x with `count` rows of a weight; `tail` columns are left over after the steps.
template <typename Kind, int M>
void Rows(const typename Kind::Element* w, size_t w_stride, size_t count, const typename Kind::Element* next,
          const typename Kind::X* x, size_t x_stride, size_t steps, size_t tail, F32* sums) {
  constexpr int kWidth = TileWidth(M), kStep = Kind::kStep;
  size_t n = 0;
  for (; n + kWidth <= count; n += kWidth) {
    const typename Kind::Element* here = w + n * w_stride;
    Tile<Kind, M, kWidth>(here, w_stride, n + kWidth < count ? here + kWidth * w_stride : next, x, x_stride, steps, sums + n);
  }
  for (; n < count; ++n) Tile<Kind, M, 1>(w + n * w_stride, 0, w + (n + 1) * w_stride, x, x_stride, steps, sums + n);
  if (tail == 0) return;
  for (n = 0; n < count; ++n) {
    // No byte behind a row's end is read.
    typename Kind::Element last[kStep] = {};
    __builtin_memcpy(last, w + n * w_stride + steps * kStep, tail * sizeof(last[0]));
    Tile<Kind, M, 1>(last, 0, last, x + steps * kStep, x_stride, 1, sums + n);
  }
}

template <typename Kind>
ZML_INLINE void MultiplyDense(const Weight& weight, const void* prepared, size_t m, size_t k, size_t begin, size_t end,
                              float* out, size_t stride) {
  typedef typename Kind::Element Element;
  typedef typename Kind::X X;
  const size_t columns = ChunkColumns<Kind>(m, k);
  for (size_t first = begin; first < end; first += kBlock) {
    const size_t count = Min(kBlock, end - first);
    const Element* w = static_cast<const Element*>(weight.values) + first * k;
    const X* x = static_cast<const X*>(prepared);
    F32 sums[kMaxRows][kBlock];
    for (size_t row = 0; row < m; ++row) {
      for (size_t n = 0; n < kBlock; ++n) sums[row][n] = F32{};
    }
    for (size_t column = 0; column < k; column += columns, x += m * columns) {
      const size_t here = Min(columns, k - column), steps = here / Kind::kStep, tail = here % Kind::kStep;
      for (size_t row = 0, rows; row < m; row += rows) {
        rows = TileRowsOf(m - row, kTileRows);
        // The first of the rows of x brings the weights into the cache.
        const Element* next = row + rows < m ? w + column : here == columns ? w + column + columns : w + kBlock * k;
        WithCount<kTileRows>(rows, [&](auto tile) {
          Rows<Kind, decltype(tile)::kValue>(w + column, k, count, next, x + row * columns, columns, steps, tail, sums[row]);
        });
      }
    }
    for (size_t row = 0; row < m; ++row) {
      for (size_t n = 0; n < count; ++n) out[row * stride + first - begin + n] = Sum(sums[row][n]);
    }
  }
}

// Packed weights: 16 rows at a time, in kVectors vectors; a lane has two columns of a row.
constexpr int kVectors = kBlock / kLanes;

// Sums of products of pairs of int16 numbers.
#if defined(__aarch64__)
struct PairSum {
  int32x4_t low, high;  // of two rows each, the columns of a pair apart
  ZML_INLINE PairSum Zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  ZML_INLINE PairSum Add(PairSum sum, I16 w, I16 x) {
    return {vmlal_s16(sum.low, vget_low_s16((int16x8_t)w), vget_low_s16((int16x8_t)x)),
            vmlal_high_s16(sum.high, (int16x8_t)w, (int16x8_t)x)};
  }
  ZML_INLINE I32 Total(PairSum sum) { return (I32)vpaddq_s32(sum.low, sum.high); }
};
#else
struct PairSum {
  I32 sum;
  ZML_INLINE PairSum Zero() { return {I32{}}; }
  ZML_INLINE PairSum Add(PairSum sum, I16 w, I16 x) { return {DotPairs(w, x, sum.sum)}; }
  ZML_INLINE I32 Total(PairSum sum) { return sum.sum; }
};
#endif

// Rows of x that have their sums in registers.
constexpr int kPackedRows = kVectors == 4 ? (kRegisters == 32 ? 3 : 2) : kVectors == 2 ? 4 : 6;
// Sums that take turns, where one after the other would have to wait for its predecessor: vpdpwssd takes 4 cycles or 5.
#if defined(__AVX512VNNI__)
constexpr int Turns(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
#else
constexpr int Turns(int) { return 1; }
#endif

typedef int8_t I8Pairs __attribute__((vector_size(kLanes * 2)));

// What x is quantized into, see formats.md: group by group, the numbers [m, 32], scales [m], and starts [m]: for int4 -8
// times the sum of the numbers, as nibbles are 8 too large; else zero.
struct PackedX {
  size_t m;
  const char* data;
  ZML_INLINE size_t GroupBytes(size_t m) { return m * (kGroup * 2 + 8); }
  const int16_t* numbers(size_t g) const { return (const int16_t*)(data + g * GroupBytes(m)); }
  const float* scales(size_t g) const { return (const float*)(data + g * GroupBytes(m) + m * kGroup * 2); }
  const int32_t* starts(size_t g) const { return (const int32_t*)(data + g * GroupBytes(m) + m * (kGroup * 2 + 4)); }
};

// Column pair `pair` of a row of x in each lane.
ZML_INLINE I16 Pair(const int16_t* x, int pair) {
  int32_t both;
  __builtin_memcpy(&both, x + 2 * pair, 4);
  return (I16)Set(both);
}

// Sums of a group of 16 rows with one row of x.
ZML_INLINE void SumInt4(const char* values, const int16_t* x, I32 (&sums)[kVectors]) {
#pragma clang loop unroll(full)
  for (int v = 0; v < kVectors; ++v) {
    // The nibbles in the middle stay where they are; the sums of their products, 16 and 256 times too large, are shifted
    // instead. They have room for that: a sum has 8 products, and 8 * 32767 * 15 * 256 < 2^31.
    PairSum of[4] = {PairSum::Zero(), PairSum::Zero(), PairSum::Zero(), PairSum::Zero()};
#pragma clang loop unroll(full)
    for (int four = 0; four < 4; ++four) {
      const U16 nibbles = Load<U16>(values + four * 64 + v * kLanes * 4);
      of[0] = PairSum::Add(of[0], (I16)(nibbles & 0xf), Pair(x, four * 4));
      of[1] = PairSum::Add(of[1], (I16)(nibbles & 0xf0), Pair(x, four * 4 + 1));
      of[2] = PairSum::Add(of[2], (I16)(nibbles & 0xf00), Pair(x, four * 4 + 2));
      of[3] = PairSum::Add(of[3], (I16)(nibbles >> 12), Pair(x, four * 4 + 3));
    }
    sums[v] = (PairSum::Total(of[0]) + PairSum::Total(of[3])) + ((PairSum::Total(of[1]) >> 4) + (PairSum::Total(of[2]) >> 8));
  }
}

ZML_INLINE I16 LoadInt8(const char* values, int pair, int v) {
  return __builtin_convertvector(Load<I8Pairs>(values + pair * 32 + v * kLanes * 2), I16);
}

ZML_INLINE void SumInt8(const char* values, const int16_t* x, I32 (&sums)[kVectors]) {
  PairSum of[kVectors][Turns(1)];
  for (int v = 0; v < kVectors; ++v) {
    for (int turn = 0; turn < Turns(1); ++turn) of[v][turn] = PairSum::Zero();
  }
#pragma clang loop unroll(full)
  for (int pair = 0; pair < 16; ++pair) {
    for (int v = 0; v < kVectors; ++v) {
      of[v][pair % Turns(1)] = PairSum::Add(of[v][pair % Turns(1)], LoadInt8(values, pair, v), Pair(x, pair));
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = PairSum::Total(of[v][0]);
    for (int turn = 1; turn < Turns(1); ++turn) sums[v] += PairSum::Total(of[v][turn]);
  }
}

// A group of 16 rows as int16, a pair of columns after the other: unpacked once for all rows of x.
typedef I16 Unpacked[16][kVectors];

template <Format format>
ZML_INLINE void Unpack(const char* values, Unpacked& w) {
  for (int v = 0; v < kVectors; ++v) {
    if constexpr (format == Format::kInt4) {
      for (int four = 0; four < 4; ++four) {
        const U16 nibbles = Load<U16>(values + four * 64 + v * kLanes * 4);
        w[four * 4][v] = (I16)(nibbles & 15);
        w[four * 4 + 1][v] = (I16)((nibbles >> 4) & 15);
        w[four * 4 + 2][v] = (I16)((nibbles >> 8) & 15);
        w[four * 4 + 3][v] = (I16)(nibbles >> 12);
      }
    } else {
      for (int pair = 0; pair < 16; ++pair) w[pair][v] = LoadInt8(values, pair, v);
    }
  }
}

// Sums of an unpacked group with M rows of x.
template <int M>
ZML_INLINE void SumUnpacked(const Unpacked& w, const int16_t* x, I32 (&sums)[M][kVectors]) {
  PairSum of[Turns(M)][M][kVectors];
  for (int turn = 0; turn < Turns(M); ++turn) {
    for (int m = 0; m < M; ++m) {
      for (int v = 0; v < kVectors; ++v) of[turn][m][v] = PairSum::Zero();
    }
  }
#pragma clang loop unroll_count(2)
  for (int pair = 0; pair < 16; pair += Turns(M)) {
    for (int turn = 0; turn < Turns(M); ++turn) {
      for (int m = 0; m < M; ++m) {
        for (int v = 0; v < kVectors; ++v) {
          of[turn][m][v] = PairSum::Add(of[turn][m][v], w[pair + turn][v], Pair(x + m * kGroup, pair + turn));
        }
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      sums[m][v] = PairSum::Total(of[0][m][v]);
      for (int turn = 1; turn < Turns(M); ++turn) sums[m][v] += PairSum::Total(of[turn][m][v]);
    }
  }
}

// Adds the sums of a group with M rows of x, scaled, to theirs.
template <Format format, int M>
ZML_INLINE void AddScaled(const I32 (&group)[M][kVectors], const F32 (&w_scales)[kVectors], const float* x_scales,
                          const int32_t* starts, F32 (*sums)[kVectors]) {
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      const I32 total = format == Format::kInt4 ? group[m][v] + Set(starts[m]) : group[m][v];
      sums[m][v] = Fma(__builtin_convertvector(total, F32), w_scales[v] * Set(x_scales[m]), sums[m][v]);
    }
  }
}

// kStreams blocks side by side, a group of each in turn: memory is read faster from several places at once.
template <Format format, int kStreams>
ZML_INLINE void Blocks(const Weight& weight, const PackedX& x, size_t k, size_t first, F32 (*sums)[kMaxRows][kVectors]) {
  const size_t groups = Ceil(k, kGroup);
  constexpr size_t kBytes = format == Format::kInt4 ? 256 : 512;
  const char* values = static_cast<const char*>(weight.values) + first / kBlock * groups * kBytes;
  const uint16_t* scales = static_cast<const uint16_t*>(weight.scales) + first * groups;
  for (int stream = 0; stream < kStreams; ++stream) {
    for (size_t row = 0; row < x.m; ++row) {
      for (int v = 0; v < kVectors; ++v) sums[stream][row][v] = F32{};
    }
  }
  for (size_t g = 0; g < groups; ++g) {
    const int16_t* numbers = x.numbers(g);
    const float* x_scales = x.scales(g);
    const int32_t* starts = x.starts(g);
    // At the end of the blocks, those after them.
    const size_t ahead = kPackedAheadBytes + (g + kPackedAheadBytes / kBytes < groups ? 0 : (kStreams - 1) * groups * kBytes);
#pragma clang loop unroll(full)
    for (int stream = 0; stream < kStreams; ++stream) {
      const size_t at = stream * groups + g;
      const char* here = values + at * kBytes;
      for (size_t line = 0; line < kBytes; line += 64) Prefetch(here + ahead + line);
      F32 w_scales[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        w_scales[v] = format == Format::kInt8Channel ? Set(1.0f) : LoadBf16(scales + at * kBlock + v * kLanes);
      }
      if (x.m == 1) {
        I32 group[1][kVectors];
        if constexpr (format == Format::kInt4) {
          SumInt4(here, numbers, group[0]);
        } else {
          SumInt8(here, numbers, group[0]);
        }
        AddScaled<format, 1>(group, w_scales, x_scales, starts, sums[stream]);
        continue;
      }
      Unpacked w;
      Unpack<format>(here, w);
      for (size_t row = 0, rows; row < x.m; row += rows) {
        rows = TileRowsOf(x.m - row, kPackedRows);
        WithCount<kPackedRows>(rows, [&](auto tile) {
          constexpr int kRows = decltype(tile)::kValue;
          I32 group[kRows][kVectors];
          SumUnpacked<kRows>(w, numbers + row * kGroup, group);
          AddScaled<format, kRows>(group, w_scales, x_scales + row, starts + row, sums[stream] + row);
        });
      }
    }
  }
}

template <Format format>
ZML_INLINE void MultiplyPacked(const Weight& weight, const void* prepared, size_t m, size_t k, size_t begin, size_t end,
                               float* out, size_t stride) {
  // int4 takes longer to unpack than to read.
  constexpr int kStreams = format == Format::kInt4 ? 1 : 2;
  const PackedX x = {m, static_cast<const char*>(prepared)};
  F32 sums[kStreams][kMaxRows][kVectors];
  for (size_t first = begin, last; first < end; first = last) {
    last = Min(end, first + kStreams * kBlock);
    if (last - first > (kStreams - 1) * kBlock) {
      Blocks<format, kStreams>(weight, x, k, first, sums);
    } else {
      Blocks<format, 1>(weight, x, k, first, sums);
    }
    for (size_t row = 0; row < m; ++row) {
      for (size_t n = first; n < last; n += kBlock) {
        float of_rows[kBlock];
        for (int v = 0; v < kVectors; ++v) {
          F32 sum = sums[(n - first) / kBlock][row][v];
          if constexpr (format == Format::kInt8Channel) {
            sum *= Load<F32>(static_cast<const float*>(weight.scales) + n + v * kLanes);
          }
          Store(of_rows + v * kLanes, sum);
        }
        __builtin_memcpy(out + row * stride + n - begin, of_rows, Min(kBlock, last - n) * sizeof(float));
      }
    }
  }
}

// Elements of any type.

size_t SizeOf(Type type) { return type == Type::kF32 ? 4 : 2; }

ZML_INLINE F32 LoadAs(Type type, const void* from) {
  if (type == Type::kF32) return Load<F32>(from);
  return type == Type::kBF16 ? LoadBf16(static_cast<const uint16_t*>(from)) : LoadF16(static_cast<const uint16_t*>(from));
}

// The first `count` of a vector; zeros behind.
ZML_INLINE F32 LoadSome(Type type, const void* from, size_t count) {
  if (count >= kLanes) return LoadAs(type, from);
  float some[kLanes] = {};
  __builtin_memcpy(some, from, count * SizeOf(type));
  return LoadAs(type, some);
}

ZML_INLINE void StoreSome(Type type, void* to, F32 x, size_t count) {
  float some[kLanes];
  void* all = count >= kLanes ? to : some;
  if (type == Type::kF32) {
    Store(all, x);
  } else if (type == Type::kBF16) {
    Store(all, ToBf16(x));
  } else {
    Store(all, __builtin_convertvector(x, F16Half));
  }
  if (count < kLanes) __builtin_memcpy(to, some, count * SizeOf(type));
}

ZML_INLINE const char* At(Type type, const void* x, size_t i) { return static_cast<const char*>(x) + i * SizeOf(type); }

// `count` elements as floats, filled up with zeros to `padded`, a multiple of kLanes.
void ToFloats(Type type, const void* from, size_t count, size_t padded, float* to) {
  for (size_t i = 0; i < padded; i += kLanes) {
    Store(to + i, i < count ? LoadSome(type, At(type, from, i), count - i) : F32{});
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

// A group of a row of x as int16, with a scale. One that is not finite makes NaN of all that it is multiplied with.
ZML_INLINE void QuantizeGroup(const float* x, int16_t* numbers, float* scale, int32_t* start, bool int4) {
  F32 most = F32{}, spoilt = F32{};
  for (size_t i = 0; i < kGroup; i += kLanes) {
    const F32 some = Load<F32>(x + i), magnitude = (F32)((I32)some & 0x7fffffff);
    most = Select(magnitude > most, magnitude, most);
    spoilt += some * F32{};  // NaN or zero
  }
  float largest = 0;
  for (int lane = 0; lane < kLanes; ++lane) largest = most[lane] > largest ? most[lane] : largest;
  const float not_finite = Sum(spoilt);
  // Not below the smallest number whose inverse is one.
  float unit = largest / 32767;
  if (unit < 1.17549435e-38f) unit = 1.17549435e-38f;
  const F32 inverse = Set(not_finite == 0 ? 1 / unit : 0);
  I32 sum = I32{};
  for (size_t i = 0; i < kGroup; i += kLanes) {
    const F32 scaled = not_finite == 0 ? Load<F32>(x + i) * inverse : F32{};
    const I32 rounded = (I32)(scaled + kRounder) - (I32)Set(kRounder);
    Store(numbers + i, __builtin_convertvector(rounded, I16Half));
    sum += rounded;
  }
  int32_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  *scale = not_finite == 0 ? unit : not_finite;
  *start = int4 ? -8 * total : 0;
}

void PreparePacked(bool int4, Type type, const void* from, size_t m, size_t k, void* prepared) {
  const PackedX x = {m, static_cast<const char*>(prepared)};
  for (size_t g = 0; g < Ceil(k, kGroup); ++g) {
    for (size_t row = 0; row < m; ++row) {
      float group[kGroup];
      ToFloats(type, At(type, from, row * k + g * kGroup), Min(kGroup, k - g * kGroup), kGroup, group);
      QuantizeGroup(group, const_cast<int16_t*>(x.numbers(g)) + row * kGroup, const_cast<float*>(x.scales(g)) + row,
                    const_cast<int32_t*>(x.starts(g)) + row, int4);
    }
  }
}

// The table.

size_t PreparedBytes(const Weight& weight, Type x_type, size_t m, size_t k) {
  if (weight.format != Format::kDense) return Ceil(k, kGroup) * PackedX::GroupBytes(m);
  return WithKind(weight.type, x_type, [&](auto kind) {
    typedef decltype(kind) Kind;
    const size_t columns = ChunkColumns<Kind>(m, k);
    return k == 0 ? 0 : Ceil(k, columns) * columns * m * sizeof(typename Kind::X);
  });
}

void Prepare(const Weight& weight, Type x_type, const void* x, size_t m, size_t k, void* prepared) {
  if (weight.format != Format::kDense) return PreparePacked(weight.format == Format::kInt4, x_type, x, m, k, prepared);
  WithKind(weight.type, x_type, [&](auto kind) { PrepareDense<decltype(kind)>(x_type, x, m, k, prepared); });
}

void Multiply(const Weight& weight, Type x_type, const void* prepared, size_t m, size_t k, size_t begin, size_t end,
              float* sums, size_t stride) {
  switch (weight.format) {
    case Format::kDense:
      return WithKind(weight.type, x_type, [&](auto kind) {
        MultiplyDense<decltype(kind)>(weight, prepared, m, k, begin, end, sums, stride);
      });
    case Format::kInt8:
      return MultiplyPacked<Format::kInt8>(weight, prepared, m, k, begin, end, sums, stride);
    case Format::kInt8Channel:
      return MultiplyPacked<Format::kInt8Channel>(weight, prepared, m, k, begin, end, sums, stride);
    case Format::kInt4:
      return MultiplyPacked<Format::kInt4>(weight, prepared, m, k, begin, end, sums, stride);
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
