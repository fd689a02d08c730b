// The micro-kernels of the product of many rows, and the packing for them. See gemm.h.

#include "zml/kernels/cpu/native/gemm.h"
#include "zml/kernels/cpu/native/simd.h"

namespace zml::cpu::ZML_ISA {
namespace {

// The block of the result that is held in registers: kVectors vectors of columns of kTileRows rows, with room for a vector of
// each of the operands.
constexpr int kVectors = 2;
constexpr int kColumns = kVectors * kLanes;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 12;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
constexpr bool kHasBf16 = true;
#else
constexpr bool kHasBf16 = false;
#endif

// Products of int16 pay unless the processor's are no faster than those of floats.
#if defined(__aarch64__)
constexpr bool kHasInt16 = false;
#else
constexpr bool kHasInt16 = true;
#endif

ZML_INLINE U32 SetWord(uint32_t x) { return U32{} + x; }

// acc + the product of the words.
template <Product kProduct>
ZML_INLINE F32 MultiplyAdd(U32 x, U32 weight, F32 acc) {
  if constexpr (kProduct == Product::kBF16) {
#if defined(__AVX512BF16__)
    return (F32)_mm512_dpbf16_ps((__m512)acc, (__m512bh)weight, (__m512bh)x);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return (F32)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)weight, (bfloat16x8_t)x);
#endif
  }
  return Fma((F32)x, (F32)weight, acc);
}

// One word of each row, in every lane.
template <int kRows>
ZML_INLINE void LoadWords(const uint32_t* from, U32 (&x)[kRows]) {
#if defined(__aarch64__)
  // A lane of a vector is an operand of the multiplication.
#pragma clang loop unroll(full)
  for (int r = 0; r + 4 <= kRows; r += 4) {
    const U32 four = Load<U32>(from + r);
    x[r] = __builtin_shufflevector(four, four, 0, 0, 0, 0);
    x[r + 1] = __builtin_shufflevector(four, four, 1, 1, 1, 1);
    x[r + 2] = __builtin_shufflevector(four, four, 2, 2, 2, 2);
    x[r + 3] = __builtin_shufflevector(four, four, 3, 3, 3, 3);
  }
#pragma clang loop unroll(full)
  for (int r = kRows / 4 * 4; r < kRows; ++r) x[r] = SetWord(from[r]);
#else
#pragma clang loop unroll(full)
  for (int r = 0; r < kRows; ++r) x[r] = SetWord(from[r]);
#endif
}

// The sums of one panel of x with one of a weight.
template <Product kProduct, int kRows>
void Tile(size_t words, const uint32_t* x, const float* x_scales, const uint32_t* weight, const float* weight_scales,
          float* sums, size_t stride, bool first) {
  if constexpr (kProduct == Product::kInt16) {
    for (size_t group = 0; group < words / kPairs; ++group) {
      I32 acc[kRows][kVectors] = {};
#pragma clang loop unroll_count(2)
      for (int s = 0; s < kPairs; ++s) {
        I16 w[kVectors];
#pragma clang loop unroll(full)
        for (int v = 0; v < kVectors; ++v) w[v] = Load<I16>(weight + v * kLanes);
#pragma clang loop unroll(full)
        for (int r = 0; r < kRows; ++r) {
          const I16 pair = (I16)SetWord(x[r]);
#pragma clang loop unroll(full)
          for (int v = 0; v < kVectors; ++v) acc[r][v] = DotPairs(w[v], pair, acc[r][v]);
        }
        x += kRows;
        weight += kColumns;
      }
      const bool fresh = first && group == 0;
#pragma clang loop unroll(full)
      for (int r = 0; r < kRows; ++r) {
        const F32 scale = Set(x_scales[r]);
#pragma clang loop unroll(full)
        for (int v = 0; v < kVectors; ++v) {
          float* to = sums + r * stride + v * kLanes;
          const F32 before = fresh ? F32{} : Load<F32>(to);
          const F32 sum = __builtin_convertvector(acc[r][v], F32) * Load<F32>(weight_scales + v * kLanes);
          Store(to, Fma(sum, scale, before));
        }
      }
      x_scales += kRows;
      weight_scales += kColumns;
    }
  } else {
    F32 acc[kRows][kVectors] = {};
#pragma clang loop unroll_count(2)
    for (size_t s = 0; s < words; ++s) {
      U32 w[kVectors];
#pragma clang loop unroll(full)
      for (int v = 0; v < kVectors; ++v) w[v] = Load<U32>(weight + v * kLanes);
      U32 word[kRows];
      LoadWords<kRows>(x, word);
#pragma clang loop unroll(full)
      for (int r = 0; r < kRows; ++r) {
#pragma clang loop unroll(full)
        for (int v = 0; v < kVectors; ++v) acc[r][v] = MultiplyAdd<kProduct>(word[r], w[v], acc[r][v]);
      }
      x += kRows;
      weight += kColumns;
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < kRows; ++r) {
#pragma clang loop unroll(full)
      for (int v = 0; v < kVectors; ++v) {
        float* to = sums + r * stride + v * kLanes;
        Store(to, first ? acc[r][v] : Load<F32>(to) + acc[r][v]);
      }
    }
  }
}

using TileFunction = void (*)(size_t, const uint32_t*, const float*, const uint32_t*, const float*, float*, size_t, bool);

template <Product kProduct>
TileFunction TileOf(size_t rows) {
  static constexpr TileFunction tiles[] = {
      nullptr,           Tile<kProduct, 1>, Tile<kProduct, 2>, Tile<kProduct, 3>, Tile<kProduct, 4>,
#if defined(__AVX2__) || defined(__aarch64__)
      Tile<kProduct, 5>, Tile<kProduct, 6>,
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
      Tile<kProduct, 7>, Tile<kProduct, 8>, Tile<kProduct, 9>, Tile<kProduct, 10>, Tile<kProduct, 11>, Tile<kProduct, 12>,
#endif
  };
  static_assert(sizeof(tiles) / sizeof(tiles[0]) == kTileRows + 1);
  return tiles[rows];
}

size_t Rows(Product) { return kTileRows; }

// Fetches what will be wanted next, a few cache lines at a time: all at once they would have to be waited for.
struct Fetcher {
  GemmAhead ahead;
  size_t run = 0, byte = 0;

  ZML_INLINE size_t Lines(const GemmAhead& ahead) { return ahead.count * ((ahead.bytes + 63) / 64); }
  void Fetch(size_t lines) {
    for (; lines != 0 && run < ahead.count; --lines) {
      __builtin_prefetch(ahead.from + run * ahead.stride + byte, 0, 2);
      byte += 64;
      if (byte >= ahead.bytes) byte = 0, ++run;
    }
  }
};

template <Product kProduct>
void MultiplyBlock(const GemmBlock& block) {
  const size_t groups = block.words / kPairs;
  const size_t panels = (block.rows + kTileRows - 1) / kTileRows, low = block.rows / panels, higher = block.rows % panels;
  const size_t tiles = panels * (block.columns / kColumns);
  Fetcher fetchers[2];
  size_t lines[2];
  for (int i = 0; i < 2; ++i) {
    fetchers[i].ahead = block.ahead[i];
    lines[i] = (Fetcher::Lines(block.ahead[i]) + tiles - 1) / tiles;
  }
  // A weight's panel stays in the first-level cache while those of x pass by, out of the second level.
  for (size_t n = 0; n < block.columns; n += kColumns) {
    const uint32_t* weight = block.weight + n * block.words;
    const float* weight_scales = block.weight_scales + n * groups;
    size_t row = 0;
    for (size_t panel = 0; panel < panels; ++panel) {
      const size_t rows = low + (panel < higher);
      for (int i = 0; i < 2; ++i) fetchers[i].Fetch(lines[i]);
      TileOf<kProduct>(rows)(block.words, block.x + row * block.words, block.x_scales + row * groups, weight,
                             weight_scales, block.sums + row * block.stride + n, block.stride, block.first);
      row += rows;
    }
  }
}

void Multiply(const GemmBlock& block) {
  switch (block.product) {
    case Product::kF32:
      return MultiplyBlock<Product::kF32>(block);
    case Product::kBF16:
      if constexpr (kHasBf16) MultiplyBlock<Product::kBF16>(block);
      return;
    case Product::kInt16:
      if constexpr (kHasInt16) MultiplyBlock<Product::kInt16>(block);
      return;
  }
}

// Four words of each of kLanes rows, given as those rows, become four vectors of a word of every row.
ZML_INLINE void Transpose(const U32 (&rows)[4], U32 (&words)[4]) {
  // Within each 128 bits, which is how the rows have been put together.
#if defined(__AVX512F__)
  const __m512i ab0 = _mm512_unpacklo_epi32((__m512i)rows[0], (__m512i)rows[1]);
  const __m512i ab1 = _mm512_unpackhi_epi32((__m512i)rows[0], (__m512i)rows[1]);
  const __m512i cd0 = _mm512_unpacklo_epi32((__m512i)rows[2], (__m512i)rows[3]);
  const __m512i cd1 = _mm512_unpackhi_epi32((__m512i)rows[2], (__m512i)rows[3]);
  words[0] = (U32)_mm512_unpacklo_epi64(ab0, cd0);
  words[1] = (U32)_mm512_unpackhi_epi64(ab0, cd0);
  words[2] = (U32)_mm512_unpacklo_epi64(ab1, cd1);
  words[3] = (U32)_mm512_unpackhi_epi64(ab1, cd1);
#elif defined(__AVX2__)
  const __m256i ab0 = _mm256_unpacklo_epi32((__m256i)rows[0], (__m256i)rows[1]);
  const __m256i ab1 = _mm256_unpackhi_epi32((__m256i)rows[0], (__m256i)rows[1]);
  const __m256i cd0 = _mm256_unpacklo_epi32((__m256i)rows[2], (__m256i)rows[3]);
  const __m256i cd1 = _mm256_unpackhi_epi32((__m256i)rows[2], (__m256i)rows[3]);
  words[0] = (U32)_mm256_unpacklo_epi64(ab0, cd0);
  words[1] = (U32)_mm256_unpackhi_epi64(ab0, cd0);
  words[2] = (U32)_mm256_unpacklo_epi64(ab1, cd1);
  words[3] = (U32)_mm256_unpackhi_epi64(ab1, cd1);
#else
  const U32 ab0 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const U32 ab1 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const U32 cd0 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const U32 cd1 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  words[0] = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
  words[1] = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
  words[2] = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
  words[3] = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
#endif
}

// Words of kLanes rows from 16 bytes of each, at from + row * stride; rows from `count` on repeat the last.
ZML_INLINE void LoadTransposed(const char* from, size_t stride, size_t count, U32 (&words)[4]) {
  typedef uint32_t Quad __attribute__((vector_size(16)));
  U32 rows[4];
#pragma clang loop unroll(full)
  for (size_t r = 0; r < 4; ++r) {
    const auto quad = [&](size_t part) __attribute__((always_inline)) {
      const size_t row = r + 4 * part;
      return Load<Quad>(from + (row < count ? row : count - 1) * stride);
    };
#if defined(__AVX512F__)
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)quad(0)), (__m128i)quad(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)quad(2)), (__m128i)quad(3), 1);
    rows[r] = (U32)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#elif defined(__AVX2__)
    rows[r] = (U32)_mm256_inserti128_si256(_mm256_castsi128_si256((__m128i)quad(0)), (__m128i)quad(1), 1);
#else
    rows[r] = quad(0);
#endif
  }
  Transpose(rows, words);
}

// Stores a vector of words of elements of the type as a panel of that width has it; returns where the next goes.
template <Product kProduct, Type kType>
ZML_INLINE uint32_t* StoreWords(uint32_t* to, size_t width, U32 words) {
  if constexpr (kProduct == Product::kBF16 || kType == Type::kF32) {
    Store(to, words);
    return to + width;
  } else if constexpr (kType == Type::kBF16) {
    Store(to, words << 16);
    Store(to + width, words & 0xffff0000);
    return to + 2 * width;
  } else {
    const U16Half even = __builtin_convertvector(words & 0xffff, U16Half);
    const U16Half odd = __builtin_convertvector(words >> 16, U16Half);
    Store(to, __builtin_convertvector((F16Half)even, F32));
    Store(to + width, __builtin_convertvector((F16Half)odd, F32));
    return to + 2 * width;
  }
}

// kLanes columns of a panel of a dense weight, whose rows begin at `from`.
template <Product kProduct, Type kType>
void PackDense(const char* from, size_t stride, size_t count, size_t elements, uint32_t* to) {
  constexpr size_t kSize = kType == Type::kF32 ? 4 : 2, kStep = 16 / kSize;
  U32 words[4];
  size_t k = 0;
  for (; k + kStep <= elements; k += kStep) {
    LoadTransposed(from + k * kSize, stride, count, words);
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; ++i) to = StoreWords<kProduct, kType>(to, kColumns, words[i]);
  }
  if (k == elements) return;
  // Zeros beyond the last column: what is read of the row's end is put into a place of its own.
  char rest[kLanes][16] = {};
  for (size_t row = 0; row < count; ++row) __builtin_memcpy(rest[row], from + row * stride + k * kSize, (elements - k) * kSize);
  LoadTransposed(rest[0], 16, count, words);
  constexpr size_t kElements = kType == Type::kF32 ? 1 : 2;
  for (size_t i = 0; i < (elements - k + kElements - 1) / kElements; ++i) to = StoreWords<kProduct, kType>(to, kColumns, words[i]);
}

// The numbers of two following columns of K of kLanes rows, from row `i` of a group's 16 on.
template <Format kFormat>
ZML_INLINE I16 LoadPairs(const char* group, int i, int pair) {
  if constexpr (kFormat == Format::kInt4) {
    const U32 words = Load<U32>(group + pair / 4 * 64 + 4 * i);
    return (I16)((words >> (4 * (pair % 4))) & 0x000f000f) - 8;
  } else {
    return __builtin_convertvector(Load<I8Half>(group + pair * 32 + 2 * i), I16);
  }
}

template <Product kProduct, Format kFormat>
void PackQuantized(const Weight& weight, size_t k_all, size_t n, size_t k_begin, size_t k_end, uint32_t* words, float* scales) {
  constexpr size_t kBytes = kFormat == Format::kInt4 ? 256 : 512;
  const size_t groups = (k_all + kGroup - 1) / kGroup, blocks = (weight.n + 15) / 16;
  for (int v = 0; v < kVectors; ++v) {
    const size_t row = n + v * kLanes, block = row / 16 < blocks ? row / 16 : blocks - 1;
    const int i = static_cast<int>(row % 16);
    uint32_t* to = words + v * kLanes;
    float* scales_to = scales + v * kLanes;
    for (size_t k = k_begin; k < k_end; k += kGroup) {
      const size_t group = block * groups + k / kGroup;
      const char* values = static_cast<const char*>(weight.values) + group * kBytes;
      F32 scale;
      if constexpr (kFormat == Format::kInt8Channel) {
        scale = Load<F32>(static_cast<const float*>(weight.scales) + block * 16 + i);
      } else {
        scale = LoadBf16(static_cast<const uint16_t*>(weight.scales) + group * 16 + i);
      }
      if constexpr (kProduct == Product::kInt16) {
        Store(scales_to, scale);
        scales_to += kColumns;
      }
#pragma clang loop unroll_count(4)
      for (int pair = 0; pair < kPairs; ++pair) {
        const I16 pairs = LoadPairs<kFormat>(values, i, pair);
        if constexpr (kProduct == Product::kInt16) {
          Store(to, pairs);
          to += kColumns;
          continue;
        }
        const F32 even = __builtin_convertvector(((I32)pairs << 16) >> 16, F32) * scale;
        const F32 odd = __builtin_convertvector((I32)pairs >> 16, F32) * scale;
        if constexpr (kProduct == Product::kBF16) {
          Store(to, __builtin_convertvector(ToBf16(even), U32) | __builtin_convertvector(ToBf16(odd), U32) << 16);
          to += kColumns;
        } else {
          Store(to, even);
          Store(to + kColumns, odd);
          to += 2 * kColumns;
        }
      }
    }
  }
}

template <Product kProduct>
void PackWeightFor(const Weight& weight, size_t k_all, size_t n, size_t k_begin, size_t k_end, uint32_t* words, float* scales) {
  if (weight.format == Format::kDense) {
    if constexpr (kProduct != Product::kInt16) {
      const size_t size = weight.type == Type::kF32 ? 4 : 2, stride = k_all * size;
      const auto pack = kProduct == Product::kBF16       ? PackDense<kProduct, Type::kBF16>
                        : weight.type == Type::kF32  ? PackDense<kProduct, Type::kF32>
                        : weight.type == Type::kBF16 ? PackDense<kProduct, Type::kBF16>
                                                     : PackDense<kProduct, Type::kF16>;
      for (int v = 0; v < kVectors; ++v) {
        const size_t row = n + v * kLanes;
        if (row >= weight.n) break;
        pack(static_cast<const char*>(weight.values) + row * stride + k_begin * size, stride, weight.n - row < kLanes ? weight.n - row : kLanes,
             k_end - k_begin, words + v * kLanes);
      }
    }
    return;
  }
  auto pack = PackQuantized<kProduct, Format::kInt4>;
  if constexpr (kProduct != Product::kBF16) {
    if (weight.format == Format::kInt8) pack = PackQuantized<kProduct, Format::kInt8>;
    if (weight.format == Format::kInt8Channel) pack = PackQuantized<kProduct, Format::kInt8Channel>;
  }
  pack(weight, k_all, n, k_begin, k_end, words, scales);
}

void PackWeight(Product product, const Weight& weight, size_t k_all, size_t n, size_t k_begin, size_t k_end, uint32_t* words,
                float* scales) {
  switch (product) {
    case Product::kF32:
      return PackWeightFor<Product::kF32>(weight, k_all, n, k_begin, k_end, words, scales);
    case Product::kBF16:
      if constexpr (kHasBf16) PackWeightFor<Product::kBF16>(weight, k_all, n, k_begin, k_end, words, scales);
      return;
    case Product::kInt16:
      if constexpr (kHasInt16) PackWeightFor<Product::kInt16>(weight, k_all, n, k_begin, k_end, words, scales);
      return;
  }
}

template <Type kType>
ZML_INLINE float LoadElement(const char* from, size_t i) {
  if constexpr (kType == Type::kF32) return Load<float>(from + 4 * i);
  const uint16_t half = Load<uint16_t>(from + 2 * i);
  if constexpr (kType == Type::kBF16) return FromBf16(half);
  return static_cast<float>(__builtin_bit_cast(_Float16, half));
}

template <Type kType>
ZML_INLINE F32 LoadElements(const char* from) {
  if constexpr (kType == Type::kF32) return Load<F32>(from);
  if constexpr (kType == Type::kBF16) return LoadBf16(reinterpret_cast<const uint16_t*>(from));
  return LoadF16(reinterpret_cast<const uint16_t*>(from));
}

// 32 elements as int16 times the scale that is returned; not a number if one of them is not finite.
template <Type kType>
ZML_INLINE float Quantize(const char* from, size_t count, int32_t (&q)[kGroup]) {
  float elements[kGroup];
  if (count == kGroup) {
#pragma clang loop unroll(full)
    for (int i = 0; i < kGroup; i += kLanes) Store(elements + i, LoadElements<kType>(from + i * (kType == Type::kF32 ? 4 : 2)));
  } else {
    for (size_t i = 0; i < kGroup; ++i) elements[i] = i < count ? LoadElement<kType>(from, i) : 0;
  }
  F32 most = {};
  I32 bad = {};
#pragma clang loop unroll(full)
  for (int i = 0; i < kGroup; i += kLanes) {
    const F32 x = Load<F32>(elements + i);
    const F32 size = (F32)((U32)x & 0x7fffffff);
    most = size > most ? size : most;
    bad |= x - x != 0;
  }
  float largest = 0;
  int32_t any = 0;
#pragma clang loop unroll(full)
  for (int i = 0; i < kLanes; ++i) {
    largest = most[i] > largest ? most[i] : largest;
    any |= bad[i];
  }
  // Below that the reciprocal would overflow; such a group is zero beside any other.
  const float inverse = largest > 1e-30f ? 32767 / largest : 0;
  // Adding it leaves the nearest integer in the lowest bits.
  constexpr float kRound = 12582912;
#pragma clang loop unroll(full)
  for (int i = 0; i < kGroup; i += kLanes) {
    const F32 rounded = Load<F32>(elements + i) * inverse + kRound;
    Store(q + i, (I32)rounded - 0x4b400000);
  }
  return any != 0 ? __builtin_nanf("") : largest * (1.0f / 32767);
}

template <Product kProduct, Type kType>
void PackRows(const void* x, size_t stride, size_t rows, size_t k_begin, size_t k_end, uint32_t* words, float* scales) {
  constexpr size_t kSize = kType == Type::kF32 ? 4 : 2;
  const char* from = static_cast<const char*>(x) + k_begin * kSize;
  const size_t count = k_end - k_begin;
  if constexpr (kProduct == Product::kInt16) {
    for (size_t row = 0; row < rows; ++row, from += stride) {
      uint32_t* to = words + row;
      for (size_t k = 0; k < count; k += kGroup) {
        int32_t q[kGroup];
        scales[k / kGroup * rows + row] = Quantize<kType>(from + k * kSize, count - k < kGroup ? count - k : kGroup, q);
        for (size_t pair = 0; pair < kPairs; ++pair, to += rows) {
          *to = (static_cast<uint32_t>(q[2 * pair]) & 0xffff) | static_cast<uint32_t>(q[2 * pair + 1]) << 16;
        }
      }
    }
    return;
  }
  constexpr size_t kElements = kProduct == Product::kBF16 ? 2 : 1, kStep = 16 / kSize;
  const size_t all = (count + kElements - 1) / kElements;
  size_t word = 0;
  // The last vector of a word's rows is stored beyond them, where the next word's are then put; not so far as to leave the
  // panel. Groups of rows go from the last to the first for that.
  for (; (word + kStep / kElements) * rows + kLanes <= all * rows; word += kStep / kElements) {
    for (size_t row = (rows - 1) / kLanes * kLanes;; row -= kLanes) {
      U32 transposed[4];
      LoadTransposed(from + row * stride + word * kElements * kSize, stride, rows - row, transposed);
      uint32_t* to = words + word * rows + row;
#pragma clang loop unroll(full)
      for (int i = 0; i < 4; ++i) to = StoreWords<kProduct, kType>(to, rows, transposed[i]);
      if (row == 0) break;
    }
  }
  for (size_t row = 0; row < rows; ++row, from += stride) {
    for (size_t w = word; w < all; ++w) {
      uint32_t bits;
      if constexpr (kProduct == Product::kF32) {
        const float value = LoadElement<kType>(from, w);
        __builtin_memcpy(&bits, &value, 4);
      } else {
        bits = 2 * w + 1 < count ? Load<uint32_t>(from + 4 * w) : Load<uint16_t>(from + 4 * w);
      }
      words[w * rows + row] = bits;
    }
  }
}

void PackX(Product product, Type type, const void* x, size_t stride, size_t rows, size_t k_begin, size_t k_end,
           uint32_t* words, float* scales) {
  switch (product) {
    case Product::kF32: {
      const auto pack = type == Type::kF32    ? PackRows<Product::kF32, Type::kF32>
                        : type == Type::kBF16 ? PackRows<Product::kF32, Type::kBF16>
                                              : PackRows<Product::kF32, Type::kF16>;
      return pack(x, stride, rows, k_begin, k_end, words, scales);
    }
    case Product::kBF16:
      return PackRows<Product::kBF16, Type::kBF16>(x, stride, rows, k_begin, k_end, words, scales);
    case Product::kInt16: {
      const auto pack = type == Type::kF32    ? PackRows<Product::kInt16, Type::kF32>
                        : type == Type::kBF16 ? PackRows<Product::kInt16, Type::kBF16>
                                              : PackRows<Product::kInt16, Type::kF16>;
      return pack(x, stride, rows, k_begin, k_end, words, scales);
    }
  }
}

Product ProductOf(Format format, Type weight, Type x) {
  // int4 has lost far more than it loses when it is rounded to bfloat16, and x loses nothing then. Sums of int16 must be
  // scaled group by group, which takes a fifth of the time: int8 is worth it.
  const bool narrow = format == Format::kInt4 || (format == Format::kDense && weight == Type::kBF16);
  if (kHasBf16 && narrow && x == Type::kBF16) return Product::kBF16;
  return kHasInt16 && format != Format::kDense ? Product::kInt16 : Product::kF32;
}

}  // namespace

extern const GemmKernels kGemm;
const GemmKernels kGemm = {
    .columns = kColumns,
    .product = ProductOf,
    .rows = Rows,
    .pack_x = PackX,
    .pack_weight = PackWeight,
    .multiply = Multiply,
};

}  // namespace zml::cpu::ZML_ISA
