// The products of a few rows with packed weights, see formats.md: 16 rows of a weight at a time, in kVectors vectors. A lane
// has some columns of a row, which meet a word of x: two numbers of 16 bits, or four of 8.
#pragma once

#include "zml/kernels/cpu/native/activation.h"
#include "zml/kernels/cpu/native/linear.h"
#include "zml/kernels/cpu/native/linear_tiles.h"

namespace zml::cpu::ZML_ISA {
namespace {

constexpr size_t kGroup = 32;
// How far ahead memory is asked for.
constexpr size_t kPackedAheadBytes = 2048;
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

// Sums of products of fours: of numbers in 0 ... 15 and int8. As many as there are in a group have room in 16 bits, where
// that is what the processor adds first: 16 * 15 * 127 < 2^15.
#if defined(__AVX512VNNI__)
struct QuadSum {
  I32 sum;
  ZML_INLINE QuadSum Zero() { return {I32{}}; }
  ZML_INLINE QuadSum Add(QuadSum sum, U8 w, I8 x) {
    return {(I32)_mm512_dpbusd_epi32((__m512i)sum.sum, (__m512i)w, (__m512i)x)};
  }
  ZML_INLINE I32 Total(QuadSum sum) { return sum.sum; }
};
#elif defined(__AVX2__)
struct QuadSum {
  I16 sum;
  ZML_INLINE QuadSum Zero() { return {I16{}}; }
  ZML_INLINE QuadSum Add(QuadSum sum, U8 w, I8 x) {
#if defined(__AVX512BW__)
    return {sum.sum + (I16)_mm512_maddubs_epi16((__m512i)w, (__m512i)x)};
#else
    return {sum.sum + (I16)_mm256_maddubs_epi16((__m256i)w, (__m256i)x)};
#endif
  }
  ZML_INLINE I32 Total(QuadSum sum) { return DotPairs(sum.sum, I16{} + 1, I32{}); }
};
#elif defined(__ARM_FEATURE_DOTPROD)
struct QuadSum {
  I32 sum;
  ZML_INLINE QuadSum Zero() { return {I32{}}; }
  ZML_INLINE QuadSum Add(QuadSum sum, U8 w, I8 x) { return {(I32)vdotq_s32((int32x4_t)sum.sum, (int8x16_t)w, (int8x16_t)x)}; }
  ZML_INLINE I32 Total(QuadSum sum) { return sum.sum; }
};
#elif defined(__aarch64__)
struct QuadSum {
  int16x8_t low, high;  // of two rows each
  ZML_INLINE QuadSum Zero() { return {vdupq_n_s16(0), vdupq_n_s16(0)}; }
  ZML_INLINE QuadSum Add(QuadSum sum, U8 w, I8 x) {
    return {vmlal_s8(sum.low, vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x)),
            vmlal_high_s8(sum.high, (int8x16_t)w, (int8x16_t)x)};
  }
  ZML_INLINE I32 Total(QuadSum sum) { return (I32)vpaddq_s32(vpaddlq_s16(sum.low), vpaddlq_s16(sum.high)); }
};
#else
struct QuadSum {
  I32 sum;
  ZML_INLINE QuadSum Zero() { return {I32{}}; }
  ZML_INLINE QuadSum Add(QuadSum sum, U8 w, I8 x) {
    // The even bytes, then the odd ones, as 16 bits.
    const I32 even = DotPairs((I16)((U16)w & 0xff), (I16)((U16)x << 8) >> 8, sum.sum);
    return {DotPairs((I16)((U16)w >> 8), (I16)x >> 8, even)};
  }
  ZML_INLINE I32 Total(QuadSum sum) { return sum.sum; }
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

// How a group of 16 rows is stored, kBytes of it, and what x it meets: kWords words of 32 columns.
struct Int8Packing {
  typedef int16_t X;
  typedef I16 W;
  typedef PairSum Products;
  static constexpr size_t kBytes = 512;
  static constexpr int kWords = 16;
  // What the unsigned numbers of a weight are too large by.
  static constexpr int32_t kOffset = 0;
  static constexpr float kLargestX = 32767;
  // Blocks that are read side by side: memory is read faster from several places at once.
  static constexpr int kStreams = 2;
  ZML_INLINE W Load(const char* values, int word, int v) {
    typedef int8_t Bytes __attribute__((vector_size(kLanes * 2)));
    return __builtin_convertvector(ZML_ISA::Load<Bytes>(values + word * 32 + v * kLanes * 2), I16);
  }
  // Puts a group's numbers in the order of their words.
  ZML_INLINE void Arrange(X*) {}
};

struct Int4Packing {
  typedef int8_t X;
  typedef U8 W;
  typedef QuadSum Products;
  static constexpr size_t kBytes = 256;
  static constexpr int kWords = 8;
  static constexpr int32_t kOffset = 8;
  static constexpr float kLargestX = 127;
  static constexpr int kStreams = 1;
  ZML_INLINE W Load(const char* values, int word, int v) {
    const U8 nibbles = ZML_ISA::Load<U8>(values + word / 2 * 64 + v * kLanes * 4);
    return word % 2 == 0 ? nibbles & 15 : nibbles >> 4;
  }
  // The lower nibbles of 4 bytes are columns 0, 4, 1 and 5 of 8, the upper ones 2, 6, 3 and 7.
  ZML_INLINE void Arrange(X* numbers) {
    typedef int8_t Bytes __attribute__((vector_size(16)));
    for (size_t i = 0; i < kGroup; i += 16) {
      const Bytes x = ZML_ISA::Load<Bytes>(numbers + i);
      Store(numbers + i, __builtin_shufflevector(x, x, 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    }
  }
};

// What x is quantized into: group by group, the numbers [m, 32] in the order of their words, scales [m], and starts [m],
// which undo kOffset.
template <typename Packing>
struct PackedX {
  typedef typename Packing::X X;
  static constexpr size_t kNumberBytes = kGroup * sizeof(X);
  size_t m;
  char* data;
  ZML_INLINE size_t GroupBytes(size_t m) { return m * (kNumberBytes + 8); }
  X* numbers(size_t g) const { return (X*)(data + g * GroupBytes(m)); }
  float* scales(size_t g) const { return (float*)(data + g * GroupBytes(m) + m * kNumberBytes); }
  int32_t* starts(size_t g) const { return (int32_t*)(data + g * GroupBytes(m) + m * (kNumberBytes + 4)); }
};

// A word of a row of x in each lane.
template <typename Packing>
ZML_INLINE auto Word(const typename Packing::X* x, int word) {
  int32_t bits;
  __builtin_memcpy(&bits, (const char*)x + 4 * word, 4);
  if constexpr (sizeof(*x) == 1) {
    return (I8)Set(bits);
  } else {
    return (I16)Set(bits);
  }
}

// Sums of a group with one row of x: each vector is used as it comes.
template <typename Packing>
ZML_INLINE void SumOne(const char* values, const typename Packing::X* x, I32 (&sums)[kVectors]) {
  typedef typename Packing::Products Products;
  Products of[kVectors][Turns(1)];
  for (int v = 0; v < kVectors; ++v) {
    for (int turn = 0; turn < Turns(1); ++turn) of[v][turn] = Products::Zero();
  }
#pragma clang loop unroll(full)
  for (int word = 0; word < Packing::kWords; ++word) {
    for (int v = 0; v < kVectors; ++v) {
      Products& sum = of[v][word % Turns(1)];
      sum = Products::Add(sum, Packing::Load(values, word, v), Word<Packing>(x, word));
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    sums[v] = Products::Total(of[v][0]);
    for (int turn = 1; turn < Turns(1); ++turn) sums[v] += Products::Total(of[v][turn]);
  }
}

// A group that is unpacked once for all rows of x.
template <typename Packing>
using Unpacked = typename Packing::W[Packing::kWords][kVectors];

template <typename Packing>
ZML_INLINE void Unpack(const char* values, Unpacked<Packing>& w) {
#pragma clang loop unroll(full)
  for (int word = 0; word < Packing::kWords; ++word) {
    for (int v = 0; v < kVectors; ++v) w[word][v] = Packing::Load(values, word, v);
  }
}

// Sums of an unpacked group with M rows of x.
template <typename Packing, int M>
ZML_INLINE void SumUnpacked(const Unpacked<Packing>& w, const typename Packing::X* x, I32 (&sums)[M][kVectors]) {
  typedef typename Packing::Products Products;
  Products of[Turns(M)][M][kVectors];
  for (int turn = 0; turn < Turns(M); ++turn) {
    for (int m = 0; m < M; ++m) {
      for (int v = 0; v < kVectors; ++v) of[turn][m][v] = Products::Zero();
    }
  }
#pragma clang loop unroll_count(2)
  for (int word = 0; word < Packing::kWords; word += Turns(M)) {
    for (int turn = 0; turn < Turns(M); ++turn) {
      for (int m = 0; m < M; ++m) {
        for (int v = 0; v < kVectors; ++v) {
          of[turn][m][v] = Products::Add(of[turn][m][v], w[word + turn][v], Word<Packing>(x + m * kGroup, word + turn));
        }
      }
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      sums[m][v] = Products::Total(of[0][m][v]);
      for (int turn = 1; turn < Turns(M); ++turn) sums[m][v] += Products::Total(of[turn][m][v]);
    }
  }
}

// Adds the sums of a group with M rows of x, scaled, to theirs.
template <typename Packing, int M>
ZML_INLINE void AddScaled(const I32 (&group)[M][kVectors], const F32 (&w_scales)[kVectors], const float* x_scales,
                          const int32_t* starts, F32 (*sums)[kVectors]) {
  for (int m = 0; m < M; ++m) {
    for (int v = 0; v < kVectors; ++v) {
      const I32 total = Packing::kOffset != 0 ? group[m][v] + Set(starts[m]) : group[m][v];
      sums[m][v] = Fma(__builtin_convertvector(total, F32), w_scales[v] * Set(x_scales[m]), sums[m][v]);
    }
  }
}

// kStreams blocks side by side, `apart` blocks from one to the other, a group of each in turn; `next` are the values of those
// after them. `channel`: each row of the weight has one scale, for later.
template <typename Packing, bool channel, int kStreams>
ZML_INLINE void Blocks(const Weight& weight, const PackedX<Packing>& x, size_t k, size_t first, size_t apart, const char* next,
                       F32 (*sums)[kMaxRows][kVectors]) {
  constexpr size_t kBytes = Packing::kBytes;
  const size_t groups = Ceil(k, kGroup);
  const char* values = static_cast<const char*>(weight.values) + first / kBlock * groups * kBytes;
  const uint16_t* scales = static_cast<const uint16_t*>(weight.scales) + first * groups;
  for (int stream = 0; stream < kStreams; ++stream) {
    for (size_t row = 0; row < x.m; ++row) {
      for (int v = 0; v < kVectors; ++v) sums[stream][row][v] = F32{};
    }
  }
  for (size_t g = 0; g < groups; ++g) {
    const typename Packing::X* numbers = x.numbers(g);
    const float* x_scales = x.scales(g);
    const int32_t* starts = x.starts(g);
    // At the end of the blocks, those after them.
    const size_t coming = g + kPackedAheadBytes / kBytes;
    const char* ahead = coming < groups ? values + coming * kBytes : next + (coming - groups) * kBytes;
#pragma clang loop unroll(full)
    for (int stream = 0; stream < kStreams; ++stream) {
      const size_t at = stream * apart * groups + g;
      const char* here = values + at * kBytes;
      for (size_t line = 0; line < kBytes; line += 64) Prefetch(ahead + stream * apart * groups * kBytes + line);
      F32 w_scales[kVectors];
      for (int v = 0; v < kVectors; ++v) w_scales[v] = channel ? Set(1.0f) : LoadBf16(scales + at * kBlock + v * kLanes);
      if (x.m == 1) {
        I32 group[1][kVectors];
        SumOne<Packing>(here, numbers, group[0]);
        AddScaled<Packing, 1>(group, w_scales, x_scales, starts, sums[stream]);
        continue;
      }
      Unpacked<Packing> w;
      Unpack<Packing>(here, w);
      for (size_t row = 0, rows; row < x.m; row += rows) {
        rows = TileRowsOf(x.m - row, kPackedRows);
        WithCount<kPackedRows>(rows, [&](auto tile) {
          constexpr int kRows = decltype(tile)::kValue;
          I32 group[kRows][kVectors];
          SumUnpacked<Packing, kRows>(w, numbers + row * kGroup, group);
          AddScaled<Packing, kRows>(group, w_scales, x_scales + row, starts + row, sums[stream] + row);
        });
      }
    }
  }
}

template <typename Packing, bool channel>
ZML_INLINE void MultiplyPacked(const Weight& weight, const void* prepared, size_t m, size_t k, size_t begin, size_t end,
                               const void* after, float* out, size_t stride) {
  constexpr int kStreams = Packing::kStreams;
  const size_t row_bytes = Ceil(k, kGroup) * Packing::kBytes / kBlock;
  const PackedX<Packing> x = {m, const_cast<char*>(static_cast<const char*>(prepared))};
  const auto store = [&](F32 (*sums)[kVectors], size_t n) {
    for (size_t row = 0; row < m; ++row) {
      float of_rows[kBlock];
      for (int v = 0; v < kVectors; ++v) {
        F32 sum = sums[row][v];
        if constexpr (channel) sum *= Load<F32>(static_cast<const float*>(weight.scales) + n + v * kLanes);
        Store(of_rows + v * kLanes, sum);
      }
      __builtin_memcpy(out + row * stride + n - begin, of_rows, Min(kBlock, end - n) * sizeof(float));
    }
  };
  F32 sums[kStreams][kMaxRows][kVectors];
  const size_t apart = Ceil(end - begin, kBlock) / kStreams;
  const char* const values = static_cast<const char*>(weight.values);
  for (size_t block = 0; block < apart; ++block) {
    const size_t first = begin + block * kBlock;
    const char* next = block + 1 < apart ? values + (first + kBlock) * row_bytes : static_cast<const char*>(after);
    Blocks<Packing, channel, kStreams>(weight, x, k, first, apart, next, sums);
    for (size_t stream = 0; stream < kStreams; ++stream) store(sums[stream], first + stream * apart * kBlock);
  }
  // Those that are left over.
  for (size_t first = begin + apart * kStreams * kBlock; first < end; first += kBlock) {
    Blocks<Packing, channel, 1>(weight, x, k, first, 0, values + (first + kBlock) * row_bytes, sums);
    store(sums[0], first);
  }
}

// A group of a row of x, with a scale. One that is not finite makes NaN of all that it is multiplied with.
template <typename Packing>
ZML_INLINE void QuantizeGroup(const float* x, typename Packing::X* numbers, float* scale, int32_t* start) {
  typedef typename Packing::X Numbers __attribute__((vector_size(kLanes * sizeof(typename Packing::X))));
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
  float unit = largest / Packing::kLargestX;
  if (unit < 1.17549435e-38f) unit = 1.17549435e-38f;
  const F32 inverse = Set(not_finite == 0 ? 1 / unit : 0);
  I32 sum = I32{};
  for (size_t i = 0; i < kGroup; i += kLanes) {
    const F32 scaled = not_finite == 0 ? Load<F32>(x + i) * inverse : F32{};
    const I32 rounded = (I32)(scaled + kRounder) - (I32)Set(kRounder);
    Store(numbers + i, __builtin_convertvector(rounded, Numbers));
    sum += rounded;
  }
  Packing::Arrange(numbers);
  int32_t total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  *scale = not_finite == 0 ? unit : not_finite;
  *start = -Packing::kOffset * total;
}

template <typename Packing>
ZML_INLINE size_t PackedBytes(size_t m, size_t k) {
  return Ceil(k, kGroup) * PackedX<Packing>::GroupBytes(m);
}

template <typename Packing>
ZML_INLINE void PreparePacked(Type type, const void* from, size_t m, size_t k, void* prepared) {
  const PackedX<Packing> x = {m, static_cast<char*>(prepared)};
  for (size_t g = 0; g < Ceil(k, kGroup); ++g) {
    for (size_t row = 0; row < m; ++row) {
      float group[kGroup];
      ToFloats(type, At(type, from, row * k + g * kGroup), Min(kGroup, k - g * kGroup), kGroup, group);
      QuantizeGroup<Packing>(group, x.numbers(g) + row * kGroup, x.scales(g) + row, x.starts(g) + row);
    }
  }
}

}  // namespace
}  // namespace zml::cpu::ZML_ISA
