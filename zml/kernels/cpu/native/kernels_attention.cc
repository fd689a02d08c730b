// Attention with an online softmax (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135).
//
// Scores are in units of log 2, so that the softmax is made of powers of two. What a query does not see must not matter
// even where it is NaN: its scores are replaced by -inf, and its values, which a weight of 0 would not silence, are left
// out of the sums. A NaN that it sees is in a weight or a value and spreads by itself: nothing may drop it but the maximum.

#include "zml/kernels/cpu/native/attention.h"

#include "zml/kernels/cpu/native/simd.h"

namespace zml::cpu {
namespace ZML_ISA {
namespace {

constexpr float kLog2e = 1.44269504f;
constexpr float kInf = __builtin_inff();
// The greatest score of nothing. It is finite, so that nothing is subtracted from an infinity but an infinity that is seen.
constexpr float kNone = -__FLT_MAX__;

ZML_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
ZML_INLINE int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }
ZML_INLINE int64_t RoundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

ZML_INLINE F32 Select(I32 mask, F32 a, F32 b) { return (F32)((mask & (I32)a) | (~mask & (I32)b)); }
// b where a is NaN.
ZML_INLINE F32 Larger(F32 a, F32 b) { return Select(a > b, a, b); }

ZML_INLINE float Greatest(F32 x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)x);
#else
#if defined(__AVX2__)
  x = Larger(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
  x = Larger(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
#else
  x = Larger(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));
#endif
  return x[0] > x[1] ? x[0] : x[1];
#endif
}

// 2^x for x <= 0, exactly 1 at 0, to 2e-7 of the value; 0 below 2^-125; NaN for NaN.
ZML_INLINE F32 Exp2(F32 x) {
  // Adding 1.5 * 2^23 rounds to an integer, which is then the low bits.
  const F32 shifted = x + 12582912.f;
  const F32 r = x - (shifted - 12582912.f);
  F32 p = Set(0.0013264727f);
  p = Fma(p, r, Set(0.009671513f));
  p = Fma(p, r, Set(0.055507336f));
  p = Fma(p, r, Set(0.24022242f));
  p = Fma(p, r, Set(0.693147f));
  p = Fma(p, r, Set(1.f));
  const F32 power = (F32)(((U32)shifted << 23) + 0x3f800000u);
  return (F32)((I32)(p * power) & ~(x < Set(-125.f)));
}

ZML_INLINE float Exp2(float x) { return Exp2(Set(x))[0]; }

// To 2e-7 of the value; NaN for NaN. The polynomial for small values is that of Cephes.
ZML_INLINE F32 Tanh(F32 x) {
  const I32 sign = (I32)x & (int32_t)0x80000000;
  const F32 size = (F32)((I32)x ^ sign), square = x * x;
  const F32 e = Exp2(size * (-2 * kLog2e));
  const F32 far = (Set(1.f) - e) / (Set(1.f) + e);
  F32 p = Set(-5.70498872745e-3f);
  p = Fma(p, square, Set(2.06390887954e-2f));
  p = Fma(p, square, Set(-5.37397155531e-2f));
  p = Fma(p, square, Set(1.33314422036e-1f));
  p = Fma(p, square, Set(-3.33332819422e-1f));
  const F32 near = Fma(p * square, size, size);
  return (F32)((I32)Select(size < Set(0.625f), near, far) | sign);
}

// How the elements of a type are read: two vectors from 2 kLanes of them, in the order that costs least.
struct Float32 {
  static constexpr int64_t kBytes = 4;
  static constexpr bool kEvenOdd = false;
  ZML_INLINE F32 Read(const char* from) { return Load<F32>(from); }
  ZML_INLINE float One(const char* from) { return *(const float*)from; }
  ZML_INLINE void Pair(const char* from, F32& a, F32& b) {
    a = Load<F32>(from);
    b = Load<F32>(from + sizeof(F32));
  }
};

struct Float16 {
  static constexpr int64_t kBytes = 2;
  static constexpr bool kEvenOdd = false;
  ZML_INLINE F32 Read(const char* from) { return LoadF16((const uint16_t*)from); }
  ZML_INLINE float One(const char* from) { return (float)*(const _Float16*)from; }
  ZML_INLINE void Pair(const char* from, F32& a, F32& b) {
    a = Read(from);
    b = Read(from + 2 * kLanes);
  }
};

struct Bfloat16 {
  static constexpr int64_t kBytes = 2;
  // The even elements, then the odd: a shift and a mask, where a conversion in order takes a shuffle for each half.
  static constexpr bool kEvenOdd = true;
  ZML_INLINE F32 Read(const char* from) { return LoadBf16((const uint16_t*)from); }
  ZML_INLINE float One(const char* from) { return FromBf16(*(const uint16_t*)from); }
  ZML_INLINE void Pair(const char* from, F32& a, F32& b) {
    const U32 both = Load<U32>(from);
    a = (F32)(both << 16);
    b = (F32)(both & 0xffff0000u);
  }
};

constexpr int64_t kPair = 2 * kLanes;

ZML_INLINE int64_t Bytes(Type type) { return type == Type::kF32 ? 4 : 2; }

template <class T>
void ReadScaled(const char* from, int64_t count, float scale, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) Store(to + i, T::Read(from + i * T::kBytes) * scale);
  for (; i < count; ++i) to[i] = T::One(from + i * T::kBytes) * scale;
}

// to[i] = scale * from[i].
void ReadScaled(Type type, const char* from, int64_t count, float scale, float* to) {
  switch (type) {
    case Type::kF32: return ReadScaled<Float32>(from, count, scale, to);
    case Type::kBF16: return ReadScaled<Bfloat16>(from, count, scale, to);
    case Type::kF16: return ReadScaled<Float16>(from, count, scale, to);
  }
}

// The same the other way.
void WriteScaled(const float* from, int64_t count, float scale, Type type, char* to) {
  int64_t i = 0;
  switch (type) {
    case Type::kF32:
      for (; i < count; ++i) ((float*)to)[i] = from[i] * scale;
      break;
    case Type::kBF16:
      for (; i + kLanes <= count; i += kLanes) Store(to + i * 2, ToBf16(Load<F32>(from + i) * scale));
      for (; i < count; ++i) ((uint16_t*)to)[i] = ToBf16(from[i] * scale);
      break;
    case Type::kF16:
      for (; i + kLanes <= count; i += kLanes) {
        Store(to + i * 2, __builtin_convertvector(Load<F32>(from + i) * scale, F16Half));
      }
      for (; i < count; ++i) ((_Float16*)to)[i] = (_Float16)(from[i] * scale);
      break;
  }
}

// The factor on q: into units of log 2, or into those of the soft cap.
ZML_INLINE float QueryScale(const AttentionTask& task) {
  return task.softcap > 0 ? task.scale / task.softcap : task.scale * kLog2e;
}

// Where a row of queries, or of results, begins.
ZML_INLINE int64_t RowOffset(const AttentionTask& task, const AttentionPart& part, const AttentionStrides& s, int64_t row) {
  const int64_t group = task.group();
  return (part.sequence * s.batch + (part.query + row / group) * s.row + (part.kv_head * group + row % group) * s.head) *
         Bytes(task.type);
}

ZML_INLINE const char* FirstKey(const AttentionTask& task, const AttentionPart& part) {
  const AttentionStrides& s = task.k_strides;
  return task.k + (part.sequence * s.batch + part.kv_head * s.head) * Bytes(task.cache);
}

ZML_INLINE const char* FirstValue(const AttentionTask& task, const AttentionPart& part) {
  const AttentionStrides& s = task.v_strides;
  return task.v + (part.sequence * s.batch + part.kv_head * s.head) * Bytes(task.cache);
}

// What a row sees of the part's keys, counted from `base`.
ZML_INLINE KeyRange Seen(const AttentionTask& task, const AttentionPart& part, int64_t row, int64_t base) {
  const KeyRange range = Visible(task, part.sequence, part.query + row / task.group());
  const int64_t begin = Max(range.begin, part.keys.begin), end = Min(range.end, part.keys.end);
  return {begin - base, Max(begin, end) - base};
}

// Writes a row's result, where the sums of weighted values are `sums` and those of the weights `total`.
ZML_INLINE void WriteRow(const AttentionTask& task, const AttentionPart& part, int64_t row, float* sums, float total) {
  const KeyRange range = Visible(task, part.sequence, part.query + row / task.group());
  if (range.begin >= range.end) {
    for (int64_t d = 0; d < task.value_dim; ++d) sums[d] = 0.f;
    total = 1.f;
  }
  WriteScaled(sums, task.value_dim, 1.f / total, task.type, task.out + RowOffset(task, part, task.out_strides, row));
}

ZML_INLINE void FinishRow(const AttentionTask& task, const AttentionPart& part, int64_t row, float* sums, float greatest,
                          float total) {
  if (part.sums == nullptr) {
    WriteRow(task, part, row, sums, total);
    return;
  }
  for (int64_t d = 0; d < task.value_dim; ++d) part.sums[row * task.value_dim + d] = sums[d];
  part.stats[2 * row] = greatest;
  part.stats[2 * row + 1] = total;
}

// From scores to weights, in place, where a row sees [begin, end) of [0, size), a multiple of kLanes. Gives the factor on
// what was summed before.
ZML_INLINE float Weigh(const AttentionTask& task, float* s, KeyRange seen, int64_t size, float& greatest, float& total) {
  F32 top = Set(greatest);
  const bool all = seen.begin == 0 && seen.end == size;
  I32 index;
  for (int i = 0; i < kLanes; ++i) index[i] = i;
  for (int64_t j = 0; j < size; j += kLanes) {
    F32 x = Load<F32>(s + j);
    if (task.softcap > 0) x = Tanh(x) * (task.softcap * kLog2e);
    if (!all) {
      const I32 at = index + (int32_t)j;
      x = Select((at >= (int32_t)seen.begin) & (at < (int32_t)seen.end), x, Set(-kInf));
    }
    if (!all || task.softcap > 0) Store(s + j, x);
    top = Larger(x, top);
  }
  const float now = Greatest(top);
  F32 sum = Set(0.f);
  for (int64_t j = 0; j < size; j += kLanes) {
    const F32 weight = Exp2(Load<F32>(s + j) - now);
    Store(s + j, weight);
    sum += weight;
  }
  const float factor = Exp2(greatest - now);
  greatest = now;
  total = total * factor + Sum(sum);
  return factor;
}

// ---- Few queries: a pass over keys and values as they lie in memory. ----

// The keys between two looks at the softmax; the values are fetched while the scores are computed.
constexpr int64_t kTile = 32;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

// The sum of each of four vectors.
typedef float F32x4 __attribute__((vector_size(16)));
ZML_INLINE F32x4 Sums(F32 a, F32 b, F32 c, F32 d) {
#if defined(__AVX512F__)
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b), _mm512_unpackhi_ps((__m512)a, (__m512)b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps((__m512)c, (__m512)d), _mm512_unpackhi_ps((__m512)c, (__m512)d));
  const __m512 x = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  return (F32x4)_mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
#elif defined(__AVX2__)
  const __m256 x = _mm256_hadd_ps(_mm256_hadd_ps((__m256)a, (__m256)b), _mm256_hadd_ps((__m256)c, (__m256)d));
  return (F32x4)_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
#else
  const F32 ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const F32 cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
#endif
}

// Rows that will be read soon, fetched a little at a time as others are read: memory is never idle, and not asked for more
// than it can bring. Where there is nothing to fetch, what is here.
struct Ahead {
  const char* base;
  int64_t stride;

  ZML_INLINE void Fetch(const Ahead& ahead, int64_t key, int64_t at) {
    Prefetch(ahead.base + key * ahead.stride + at);
  }
};

// Scores of Rows queries with Keys keys: s[row * kTile + key].
template <class T, int Rows, int Keys>
ZML_INLINE void ScoreKeys(const float* q, int64_t dim, const char* k, int64_t stride, int64_t key, const Ahead& ahead,
                          float* s) {
  F32 acc[Rows][Keys] = {};
  for (int64_t d = 0; d < dim; d += kPair) {
    for (int j = 0; j < Keys; ++j) Ahead::Fetch(ahead, key + j, d * T::kBytes);
    if constexpr (Rows >= Keys) {
      F32 a[Keys], b[Keys];
      for (int j = 0; j < Keys; ++j) T::Pair(k + j * stride + d * T::kBytes, a[j], b[j]);
      for (int i = 0; i < Rows; ++i) {
        const F32 x = Load<F32>(q + i * dim + d), y = Load<F32>(q + i * dim + d + kLanes);
        for (int j = 0; j < Keys; ++j) acc[i][j] = Fma(x, a[j], acc[i][j]);
        for (int j = 0; j < Keys; ++j) acc[i][j] = Fma(y, b[j], acc[i][j]);
      }
    } else {
      F32 x[Rows], y[Rows];
      for (int i = 0; i < Rows; ++i) x[i] = Load<F32>(q + i * dim + d), y[i] = Load<F32>(q + i * dim + d + kLanes);
      for (int j = 0; j < Keys; ++j) {
        F32 a, b;
        T::Pair(k + j * stride + d * T::kBytes, a, b);
        for (int i = 0; i < Rows; ++i) acc[i][j] = Fma(y[i], b, Fma(x[i], a, acc[i][j]));
      }
    }
  }
  float sums[Rows * Keys];
  constexpr int kFours = Rows * Keys / 4 * 4;
  const F32* flat = &acc[0][0];
  for (int i = 0; i < kFours; i += 4) Store(sums + i, Sums(flat[i], flat[i + 1], flat[i + 2], flat[i + 3]));
  for (int i = kFours; i < Rows * Keys; ++i) sums[i] = Sum(flat[i]);
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Keys; ++j) s[i * kTile + j] = sums[i * Keys + j];
  }
}

template <class T, int Rows>
ZML_INLINE void Scores(const float* q, int64_t dim, const char* k, int64_t stride, int64_t count, const Ahead& ahead,
                       float* s) {
  constexpr int kKeys = kManyRegisters ? (Rows <= 2 ? 8 : 4) : (Rows == 1 ? 8 : Rows == 2 ? 4 : 2);
  int64_t key = 0;
  for (; key + kKeys <= count; key += kKeys) {
    ScoreKeys<T, Rows, kKeys>(q, dim, k + key * stride, stride, key, ahead, s + key);
  }
  for (; key < count; ++key) ScoreKeys<T, Rows, 1>(q, dim, k + key * stride, stride, key, ahead, s + key);
}

// acc[row * dim + d] = factor[row] * acc + the weighted values of Pairs pairs of vectors from d on.
template <class T, int Rows, int Pairs>
ZML_INLINE void MixColumns(const float* weights, const float* factor, const char* v, int64_t stride, int64_t count,
                           const Ahead& ahead, int64_t at, float* acc, int64_t dim) {
  F32 sum[Rows][2 * Pairs];
  for (int i = 0; i < Rows; ++i) {
    for (int c = 0; c < 2 * Pairs; ++c) sum[i][c] = Load<F32>(acc + i * dim + c * kLanes) * factor[i];
  }
  for (int64_t key = 0; key < count; ++key) {
    for (int c = 0; c < Pairs; ++c) Ahead::Fetch(ahead, key, at + c * kPair * T::kBytes);
    F32 x[2 * Pairs];
    for (int c = 0; c < Pairs; ++c) T::Pair(v + key * stride + c * kPair * T::kBytes, x[2 * c], x[2 * c + 1]);
    for (int i = 0; i < Rows; ++i) {
      const F32 weight = Set(weights[i * kTile + key]);
      for (int c = 0; c < 2 * Pairs; ++c) sum[i][c] = Fma(weight, x[c], sum[i][c]);
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int c = 0; c < 2 * Pairs; ++c) Store(acc + i * dim + c * kLanes, sum[i][c]);
  }
}

template <class T, int Rows>
ZML_INLINE void Mix(const float* weights, const float* factor, const char* v, int64_t stride, int64_t count,
                    const Ahead& ahead, float* acc, int64_t dim) {
  constexpr int kPairs = (Rows == 1 ? 4 : Rows == 2 ? 2 : 1) * (kManyRegisters ? 2 : 1);
  int64_t d = 0;
  for (; d + kPairs * kPair <= dim; d += kPairs * kPair) {
    MixColumns<T, Rows, kPairs>(weights, factor, v + d * T::kBytes, stride, count, ahead, d * T::kBytes, acc + d, dim);
  }
  for (; d < dim; d += kPair) {
    MixColumns<T, Rows, 1>(weights, factor, v + d * T::kBytes, stride, count, ahead, d * T::kBytes, acc + d, dim);
  }
}

// Rows of a tile as float32, each filled up with zeros to `padded` elements.
template <class T>
void Unpack(const char* from, int64_t stride, int64_t count, int64_t dim, int64_t padded, float* to) {
  for (int64_t key = 0; key < count; ++key, from += stride, to += padded) {
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) Store(to + d, T::Read(from + d * T::kBytes));
    for (; d < dim; ++d) to[d] = T::One(from + d * T::kBytes);
    for (; d < padded; ++d) to[d] = 0.f;
  }
}

// A place in scratch memory, which is null where it is only measured.
ZML_INLINE float* At(float* base, int64_t offset) { return base == nullptr ? nullptr : base + offset; }

struct DecodeScratch {
  int64_t dim, value_dim;  // padded
  float *q, *acc, *stats, *s, *keys, *values;
  int64_t floats;

  ZML_INLINE DecodeScratch Of(const AttentionTask& task, int64_t queries, float* base) {
    const int64_t rows = queries * task.group();
    DecodeScratch x;
    x.dim = RoundUp(task.dim, kPair);
    x.value_dim = RoundUp(task.value_dim, kPair);
    int64_t used = 0;
    x.q = At(base, used), used += rows * x.dim;
    x.acc = At(base, used), used += rows * x.value_dim;
    x.stats = At(base, used), used += RoundUp(2 * rows, 16);
    x.s = At(base, used), used += 4 * kTile;
    x.keys = At(base, used), used += kTile * x.dim;
    x.values = At(base, used), used += kTile * x.value_dim;
    x.floats = RoundUp(used, 16);
    return x;
  }
};

// Where an element of a head stands in a row of q or of the sums.
template <class T>
ZML_INLINE int64_t Place(int64_t d) {
  if (!T::kEvenOdd) return d;
  const int64_t in = d % kPair;
  return d - in + in / 2 + in % 2 * kLanes;
}

// A tile's keys and values, for `Rows` heads of a query.
template <class T, int Rows>
void DecodeRows(const AttentionTask& task, const DecodeScratch& x, int64_t row, int64_t count, const char* k,
                int64_t k_stride, const Ahead& next_k, const char* v, int64_t v_stride, const Ahead& next_v) {
  Scores<T, Rows>(x.q + row * x.dim, x.dim, k, k_stride, count, next_k, x.s);
  float factor[Rows];
  const int64_t size = RoundUp(count, kLanes);
  for (int i = 0; i < Rows; ++i) {
    float* stats = x.stats + 2 * (row + i);
    for (int64_t j = count; j < size; ++j) x.s[i * kTile + j] = 0.f;
    factor[i] = Weigh(task, x.s + i * kTile, {0, count}, size, stats[0], stats[1]);
  }
  Mix<T, Rows>(x.s, factor, v, v_stride, count, next_v, x.acc + row * x.value_dim, x.value_dim);
}

// T: the type of the cache, or Float32 where its rows are unpacked first.
template <class T>
ZML_INLINE void DecodeTiles(const AttentionTask& task, const AttentionPart& part, const DecodeScratch& x,
                            void (*unpack)(const char*, int64_t, int64_t, int64_t, int64_t, float*)) {
  const int64_t group = task.group(), rows = part.queries * group, bytes = Bytes(task.cache);
  const float scale = QueryScale(task);
  for (int64_t row = 0; row < rows; ++row) {
    // In order, where the keys will be.
    float* ordered = x.keys;
    ReadScaled(task.type, task.q + RowOffset(task, part, task.q_strides, row), task.dim, scale, ordered);
    for (int64_t d = 0; d < x.dim; ++d) x.q[row * x.dim + Place<T>(d)] = d < task.dim ? ordered[d] : 0.f;
    for (int64_t d = 0; d < x.value_dim; ++d) x.acc[row * x.value_dim + d] = 0.f;
    x.stats[2 * row] = kNone;
    x.stats[2 * row + 1] = 0.f;
  }
  const int64_t k_stride = task.k_strides.row * bytes, v_stride = task.v_strides.row * bytes;
  const char* first_key = FirstKey(task, part);
  const char* first_value = FirstValue(task, part);
  for (int64_t begin = part.keys.begin; begin < part.keys.end;) {
    const int64_t end = Min((begin / kTile + 1) * kTile, part.keys.end);
    const char* k = first_key + begin * k_stride;
    const char* v = first_value + begin * v_stride;
    int64_t k_step = k_stride, v_step = v_stride;
    // The next tile's, or where there is none this one's again.
    const int64_t next = end < part.keys.end ? end : begin;
    const Ahead next_k{first_key + next * k_stride, k_stride}, next_v{first_value + next * v_stride, v_stride};
    if (unpack != nullptr) {
      unpack(k, k_stride, end - begin, task.dim, x.dim, x.keys);
      unpack(v, v_stride, end - begin, task.value_dim, x.value_dim, x.values);
      k = (const char*)x.keys, v = (const char*)x.values;
      k_step = x.dim * 4, v_step = x.value_dim * 4;
    }
    for (int64_t query = 0; query < part.queries; ++query) {
      // Exactly what the query sees is read for it.
      const KeyRange seen = Seen(task, part, query * group, begin);
      const int64_t from = Max(seen.begin, 0), to = Min(seen.end, end - begin);
      if (from >= to) continue;
      const char* k_from = k + from * k_step;
      const char* v_from = v + from * v_step;
      for (int64_t head = 0; head < group;) {
        const int64_t left = group - head, row = query * group + head;
        const int take = (int)(left == 5 || left == 6 ? 3 : Min(left, 4));
        switch (take) {
          case 1: DecodeRows<T, 1>(task, x, row, to - from, k_from, k_step, next_k, v_from, v_step, next_v); break;
          case 2: DecodeRows<T, 2>(task, x, row, to - from, k_from, k_step, next_k, v_from, v_step, next_v); break;
          case 3: DecodeRows<T, 3>(task, x, row, to - from, k_from, k_step, next_k, v_from, v_step, next_v); break;
          default: DecodeRows<T, 4>(task, x, row, to - from, k_from, k_step, next_k, v_from, v_step, next_v); break;
        }
        head += take;
      }
    }
    begin = end;
  }
  for (int64_t row = 0; row < rows; ++row) {
    float* ordered = x.values;
    for (int64_t d = 0; d < task.value_dim; ++d) ordered[d] = x.acc[row * x.value_dim + Place<T>(d)];
    FinishRow(task, part, row, ordered, x.stats[2 * row], x.stats[2 * row + 1]);
  }
}

int64_t ScratchOfDecode(const AttentionTask& task, int64_t queries) {
  return DecodeScratch::Of(task, queries, nullptr).floats;
}

void Decode(const AttentionTask& task, const AttentionPart& part, float* scratch) {
  const DecodeScratch x = DecodeScratch::Of(task, part.queries, scratch);
  const bool whole = x.dim == task.dim && x.value_dim == task.value_dim;
  switch (task.cache) {
    case Type::kF32: return DecodeTiles<Float32>(task, part, x, whole ? nullptr : Unpack<Float32>);
    case Type::kBF16:
      return whole ? DecodeTiles<Bfloat16>(task, part, x, nullptr) : DecodeTiles<Float32>(task, part, x, Unpack<Bfloat16>);
    case Type::kF16:
      return whole ? DecodeTiles<Float16>(task, part, x, nullptr) : DecodeTiles<Float32>(task, part, x, Unpack<Float16>);
  }
}

// ---- Many queries: products of matrices, a block of keys at a time. ----

// Rows and vectors that a product keeps in registers.
#if defined(__AVX512F__)
constexpr int kRows = 12, kVectors = 2;
#elif defined(__AVX2__)
constexpr int kRows = 6, kVectors = 2;
#elif defined(__aarch64__)
constexpr int kRows = 6, kVectors = 4;
#else
constexpr int kRows = 4, kVectors = 2;
#endif
constexpr int kColumns = kVectors * kLanes;
// Keys of a block: a multiple of kColumns. The block, as float32, stays in the second-level cache.
constexpr int64_t kBlock = 128;

// x[i][j] = x[j][i].
ZML_INLINE void Transpose(F32 (&x)[kLanes]) {
  F32 y[kLanes];
  for (int stage = 1; stage < kLanes; stage *= 2) {
    for (int i = 0; i < kLanes / 2; ++i) {
      const F32 a = x[i], b = x[i + kLanes / 2];
#if defined(__AVX512F__)
      y[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      y[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
      y[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
      y[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
      y[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      y[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
    }
    for (int i = 0; i < kLanes; ++i) x[i] = y[i];
  }
}

// Keys as panels of kColumns: to[panel][d][key], zeros behind the last.
template <class T>
void PackKeys(const char* k, int64_t stride, int64_t count, int64_t dim, float* to) {
  for (int64_t panel = 0; panel < count; panel += kColumns, to += kColumns * dim) {
    for (int64_t key = 0; key < kColumns; key += kLanes) {
      const int64_t there = Min(Max(count - panel - key, 0), kLanes);
      const char* from = k + (panel + key) * stride;
      int64_t d = 0;
      for (; d + kLanes <= dim; d += kLanes) {
        F32 x[kLanes];
        for (int i = 0; i < kLanes; ++i) x[i] = i < there ? T::Read(from + i * stride + d * T::kBytes) : Set(0.f);
        Transpose(x);
        for (int i = 0; i < kLanes; ++i) Store(to + (d + i) * kColumns + key, x[i]);
      }
      for (; d < dim; ++d) {
        for (int i = 0; i < kLanes; ++i) {
          to[d * kColumns + key + i] = i < there ? T::One(from + i * stride + d * T::kBytes) : 0.f;
        }
      }
    }
  }
}

// Values as panels of kColumns: to[panel][key][column], zeros behind the last; kBlock keys to a panel. Gives whether all
// are finite.
template <class T>
bool PackValues(const char* v, int64_t stride, int64_t count, int64_t dim, float* to) {
  F32 check = Set(0.f);
  for (int64_t panel = 0; panel < dim; panel += kColumns, to += kBlock * kColumns) {
    for (int64_t key = 0; key < count; ++key) {
      const char* from = v + key * stride + panel * T::kBytes;
      for (int64_t c = 0; c < kColumns; c += kLanes) {
        F32 x = Set(0.f);
        const int64_t left = dim - panel - c;
        if (left >= kLanes) {
          x = T::Read(from + c * T::kBytes);
        } else {
          for (int i = 0; i < kLanes; ++i) {
            if (i < left) x[i] = T::One(from + (c + i) * T::kBytes);
          }
        }
        // 0, or NaN.
        check += x * 0.f;
        Store(to + key * kColumns + c, x);
      }
    }
  }
  return Sum(check) == 0.f;
}

// out[row * stride + column] of a product: a [size][kRows] (or Step apart, by row), b [size][kColumns].
template <int Rows>
ZML_INLINE void Product(const float* a, int64_t row_step, int64_t step, const float* b, int64_t size, F32 (&acc)[Rows][kVectors]) {
  for (int64_t t = 0; t < size; ++t) {
    F32 x[kVectors];
    for (int c = 0; c < kVectors; ++c) x[c] = Load<F32>(b + t * kColumns + c * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const F32 y = Set(a[i * row_step + t * step]);
      for (int c = 0; c < kVectors; ++c) acc[i][c] = Fma(y, x[c], acc[i][c]);
    }
  }
}

void ScorePanel(const float* q, const float* k, int64_t dim, float* s) {
  F32 acc[kRows][kVectors] = {};
  Product<kRows>(q, 1, kRows, k, dim, acc);
  for (int i = 0; i < kRows; ++i) {
    for (int c = 0; c < kVectors; ++c) Store(s + i * kBlock + c * kLanes, acc[i][c]);
  }
}

// out = factor * out + weights.values, over the keys that v begins with.
template <int Rows>
void MixPanel(const float* weights, const float* factor, const float* v, int64_t count, float* out, int64_t stride) {
  F32 acc[Rows][kVectors];
  for (int i = 0; i < Rows; ++i) {
    for (int c = 0; c < kVectors; ++c) acc[i][c] = Load<F32>(out + i * stride + c * kLanes) * factor[i];
  }
  Product<Rows>(weights, kBlock, 1, v, count, acc);
  for (int i = 0; i < Rows; ++i) {
    for (int c = 0; c < kVectors; ++c) Store(out + i * stride + c * kLanes, acc[i][c]);
  }
}

struct PrefillScratch {
  int64_t value_dim, strips;  // padded
  float *q, *acc, *stats, *s, *keys, *values;
  int64_t floats;

  ZML_INLINE PrefillScratch Of(const AttentionTask& task, int64_t queries, float* base) {
    PrefillScratch x;
    x.value_dim = RoundUp(task.value_dim, kColumns);
    x.strips = (queries * task.group() + kRows - 1) / kRows;
    const int64_t rows = x.strips * kRows;
    int64_t used = 0;
    x.keys = At(base, used), used += RoundUp(kBlock * task.dim, 16);
    x.values = At(base, used), used += kBlock * x.value_dim;
    x.s = At(base, used), used += kRows * kBlock;
    x.q = At(base, used), used += RoundUp(rows * task.dim, 16);
    x.acc = At(base, used), used += rows * x.value_dim;
    x.stats = At(base, used), used += RoundUp(2 * rows, 16);
    x.floats = used;
    return x;
  }
};

// A block of keys for one strip of kRows rows: `count` keys from `base` on.
ZML_INLINE void PrefillStrip(const AttentionTask& task, const AttentionPart& part, const PrefillScratch& x,
                             int64_t strip, int64_t base, int64_t count, bool finite) {
  const int64_t rows = part.queries * task.group();
  KeyRange seen[kRows];
  int64_t begin = count, end = 0;
  bool alike = true;
  for (int i = 0; i < kRows; ++i) {
    // The rows behind the last see what it sees.
    const KeyRange range = Seen(task, part, Min(strip * kRows + i, rows - 1), base);
    seen[i] = {Min(Max(range.begin, 0), count), Min(Max(range.end, 0), count)};
    if (seen[i].begin < seen[i].end) begin = Min(begin, seen[i].begin), end = Max(end, seen[i].end);
    alike = alike && seen[i].begin == seen[0].begin && seen[i].end == seen[0].end;
  }
  if (begin >= end) return;
  // Whole panels of scores; whole vectors of weights.
  const int64_t first = begin / kColumns * kColumns, size = RoundUp(end - first, kColumns);
  for (int64_t key = first; key < first + size; key += kColumns) {
    ScorePanel(x.q + strip * kRows * task.dim, x.keys + key * task.dim, task.dim, x.s + key);
  }
  float factor[kRows];
  for (int i = 0; i < kRows; ++i) {
    float* stats = x.stats + 2 * (strip * kRows + i);
    factor[i] = Weigh(task, x.s + i * kBlock + first, {seen[i].begin - first, seen[i].end - first}, size, stats[0], stats[1]);
  }
  float* acc = x.acc + strip * kRows * x.value_dim;
  const float* v = x.values;
  for (int64_t c = 0; c < x.value_dim; c += kColumns, v += kBlock * kColumns) {
    if (alike || finite) {
      MixPanel<kRows>(x.s + begin, factor, v + begin * kColumns, end - begin, acc + c, x.value_dim);
      continue;
    }
    // Some rows do not see a value that is not finite.
    for (int i = 0; i < kRows; ++i) {
      MixPanel<1>(x.s + i * kBlock + seen[i].begin, factor + i, v + seen[i].begin * kColumns,
                  Max(seen[i].end - seen[i].begin, 0), acc + i * x.value_dim + c, x.value_dim);
    }
  }
}

template <class T>
ZML_INLINE void PrefillBlocks(const AttentionTask& task, const AttentionPart& part, const PrefillScratch& x) {
  const int64_t rows = part.queries * task.group();
  const float scale = QueryScale(task);
  for (int64_t row = 0; row < x.strips * kRows; ++row) {
    float* q = x.q + row / kRows * kRows * task.dim + row % kRows;
    float* ordered = x.keys;
    // The last strip is filled up with the last row.
    const char* from = task.q + RowOffset(task, part, task.q_strides, Min(row, rows - 1));
    ReadScaled(task.type, from, task.dim, scale, ordered);
    for (int64_t d = 0; d < task.dim; ++d) q[d * kRows] = ordered[d];
    for (int64_t d = 0; d < x.value_dim; ++d) x.acc[row * x.value_dim + d] = 0.f;
    x.stats[2 * row] = kNone;
    x.stats[2 * row + 1] = 0.f;
  }
  const char* k = FirstKey(task, part);
  const char* v = FirstValue(task, part);
  const int64_t k_stride = task.k_strides.row * T::kBytes, v_stride = task.v_strides.row * T::kBytes;
  for (int64_t begin = part.keys.begin; begin < part.keys.end;) {
    const int64_t end = Min((begin / kBlock + 1) * kBlock, part.keys.end), count = end - begin;
    PackKeys<T>(k + begin * k_stride, k_stride, count, task.dim, x.keys);
    const bool finite = PackValues<T>(v + begin * v_stride, v_stride, count, task.value_dim, x.values);
    for (int64_t strip = 0; strip < x.strips; ++strip) PrefillStrip(task, part, x, strip, begin, count, finite);
    begin = end;
  }
  for (int64_t row = 0; row < rows; ++row) {
    FinishRow(task, part, row, x.acc + row * x.value_dim, x.stats[2 * row], x.stats[2 * row + 1]);
  }
}

int64_t ScratchOfPrefill(const AttentionTask& task, int64_t queries) {
  return PrefillScratch::Of(task, queries, nullptr).floats;
}

void Prefill(const AttentionTask& task, const AttentionPart& part, float* scratch) {
  const PrefillScratch x = PrefillScratch::Of(task, part.queries, scratch);
  switch (task.cache) {
    case Type::kF32: return PrefillBlocks<Float32>(task, part, x);
    case Type::kBF16: return PrefillBlocks<Bfloat16>(task, part, x);
    case Type::kF16: return PrefillBlocks<Float16>(task, part, x);
  }
}

void Combine(const AttentionTask& task, const AttentionPart& first, int64_t count, float* scratch) {
  const int64_t rows = first.queries * task.group(), dim = task.value_dim;
  for (int64_t row = 0; row < rows; ++row) {
    float greatest = kNone;
    for (int64_t i = 0; i < count; ++i) {
      const float x = first.stats[2 * (i * rows + row)];
      greatest = x > greatest ? x : greatest;
    }
    float total = 0.f;
    for (int64_t d = 0; d < dim; ++d) scratch[d] = 0.f;
    for (int64_t i = 0; i < count; ++i) {
      const float* stats = first.stats + 2 * (i * rows + row);
      const float* sums = first.sums + (i * rows + row) * dim;
      const float factor = Exp2(stats[0] - greatest);
      total += stats[1] * factor;
      for (int64_t d = 0; d < dim; ++d) scratch[d] += sums[d] * factor;
    }
    WriteRow(task, first, row, scratch, total);
  }
}

}  // namespace

extern const AttentionKernels kAttention;
const AttentionKernels kAttention = {
    .decode_scratch = ScratchOfDecode,
    .prefill_scratch = ScratchOfPrefill,
    .decode = Decode,
    .prefill = Prefill,
    .combine = Combine,
};

}  // namespace ZML_ISA
}  // namespace zml::cpu
