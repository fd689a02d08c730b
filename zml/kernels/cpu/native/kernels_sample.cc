// Sampling: penalties, peaks, what is within a distance, and Gumbel noise on it.

#include "zml/kernels/cpu/native/sample.h"

#include "zml/kernels/cpu/native/simd.h"

namespace zml::cpu {
namespace ZML_ISA {
namespace {

constexpr float kInf = __builtin_inff(), kNan = __builtin_nanf("");
constexpr int kVectors = kSampleBlock / kLanes;
// -log(-log(u)) of the greatest u that is drawn, 1 - 2^-24, and of the least, 2^-24; both outwards.
constexpr float kMostNoise = 16.6356f, kLeastNoise = -2.8116f;
// Vectors of random words at once: as many as hide the latency of a round.
constexpr int kTogether = kVectors < 4 ? kVectors : 4;

ZML_INLINE F32 Select(I32 mask, F32 a, F32 b) { return (F32)((mask & (I32)a) | (~mask & (I32)b)); }

ZML_INLINE bool Any(I32 mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps((__m128)mask) != 0;
#elif defined(__aarch64__)
  return vmaxvq_u32((uint32x4_t)mask) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

// 1.5 * 2^23: added to a float it leaves the nearest integer in the low bits.
constexpr float kRounder = 12582912.f;

// exp(-x) for x >= 0, to 2e-7 of the value; 0 from 87 on. (Cephes' polynomial.)
ZML_INLINE F32 ExpOfMinus(F32 x) {
  const F32 cut = Select(x < Set(87.f), x, Set(87.f));
  const F32 shifted = Set(kRounder) - cut * 1.44269504f;
  const F32 n = shifted - kRounder;
  F32 r = Fma(n, Set(-0.693359375f), -cut);
  r = Fma(n, Set(2.12194440e-4f), r);
  F32 p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, r * r, r) + 1.f;
  const F32 power = (F32)(((U32)shifted << 23) + 0x3f800000u);
  return (F32)((I32)(p * power) & (x < Set(87.f)));
}

// log(x) for normal x > 0, to 2e-7 of the value, also near 1. (Cephes' polynomial.)
ZML_INLINE F32 Log(F32 x) {
  // x = m 2^e with m from sqrt(1/2) to sqrt(2).
  const I32 e = ((I32)x - 0x3f3504f3) >> 23;
  const F32 m = (F32)((I32)x - (e << 23)) - 1.f, exponent = __builtin_convertvector(e, F32);
  F32 p = Set(7.0376836292e-2f);
  p = Fma(p, m, Set(-1.1514610310e-1f));
  p = Fma(p, m, Set(1.1676998740e-1f));
  p = Fma(p, m, Set(-1.2420140846e-1f));
  p = Fma(p, m, Set(1.4249322787e-1f));
  p = Fma(p, m, Set(-1.6668057665e-1f));
  p = Fma(p, m, Set(2.0000714765e-1f));
  p = Fma(p, m, Set(-2.4999993993e-1f));
  p = Fma(p, m, Set(3.3333331174e-1f));
  const F32 square = m * m;
  p = Fma(exponent, Set(-2.12194440e-4f), p * m * square);
  p = Fma(square, Set(-0.5f), p) + m;
  return Fma(exponent, Set(0.693359375f), p);
}

// The two words of Threefry-2x32-20 for a vector of counters, or for one.
template <class T, int kCount>
ZML_INLINE void Threefry(const uint32_t* key, uint32_t draw, T (&left)[kCount], T (&right)[kCount]) {
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  for (int i = 0; i < kCount; ++i) {
    left[i] += keys[0];
    right[i] = T{} + (draw + keys[1]);
  }
#pragma clang loop unroll(full)
  for (int group = 0; group < 5; ++group) {
#pragma clang loop unroll(full)
    for (int turn = 0; turn < 4; ++turn) {
      const int by = kRotations[group % 2][turn];
      for (int i = 0; i < kCount; ++i) {
        left[i] += right[i];
        right[i] = ((right[i] << by) | (right[i] >> (32 - by))) ^ left[i];
      }
    }
    for (int i = 0; i < kCount; ++i) {
      left[i] += keys[(group + 1) % 3];
      right[i] += keys[(group + 2) % 3] + (uint32_t)(group + 1);
    }
  }
}

static void ThreefryOne(const uint32_t* key, uint32_t counter, uint32_t draw, uint32_t* words) {
  uint32_t left[1] = {counter}, right[1];
  Threefry(key, draw, left, right);
  words[0] = left[0];
  words[1] = right[0];
}

// The block's logits, with `rest` beyond the end of the row.
ZML_INLINE void LoadBlock(const float* logits, int64_t count, int64_t block, float rest, F32* x) {
  const float* from = logits + block * kSampleBlock;
  const int64_t left = count - block * kSampleBlock;
  float padded[kSampleBlock];
  if (left < kSampleBlock) {
    for (int i = 0; i < kSampleBlock; ++i) padded[i] = i < left ? from[i] : rest;
    from = padded;
  }
  for (int v = 0; v < kVectors; ++v) x[v] = Load<F32>(from + v * kLanes);
}

// The block's distances, NaN beyond the end of the row, which is within no limit. False if none is within the limit.
ZML_INLINE bool Distances(const SampleRow& row, int64_t block, float limit, F32* d) {
  if (!(Distance(row, row.peaks[block]) <= limit)) return false;
  LoadBlock(row.logits, row.count, block, kNan, d);
  for (int v = 0; v < kVectors; ++v) d[v] = Distance(row, d[v]);
  return true;
}

static void Penalize(const float* logits, const bool* prompt, const int32_t* generated, int64_t count, float repetition,
                     float presence, float frequency, float* out) {
  const auto* seen = (const uint8_t*)prompt;
  for (int64_t i = 0; i < count; ++i) {
    const float x = logits[i];
    const bool drawn = generated[i] > 0;
    const float weaker = x < 0 ? x * repetition : x / repetition;
    out[i] = (seen[i] != 0 || drawn ? weaker : x) - frequency * (float)generated[i] - (drawn ? presence : 0.f);
  }
}

static void Peaks(const float* logits, int64_t count, float* out) {
  for (int64_t block = 0; block * kSampleBlock < count; ++block) {
    F32 x[kVectors];
    LoadBlock(logits, count, block, -kInf, x);
    F32 top = x[0];
    I32 nan = x[0] != x[0];
    for (int v = 1; v < kVectors; ++v) {
      nan |= x[v] != x[v];
      top = Select(x[v] > top, x[v], top);
    }
    float found = top[0];
    for (int i = 1; i < kLanes; ++i) found = top[i] > found ? top[i] : found;
    out[block] = Any(nan) ? kNan : found;
  }
}

static void Fill(const SampleRow& row, int64_t begin, int64_t end, float limit, bool weigh, SampleBins& bins) {
  for (int64_t block = begin; block < end; ++block) {
    F32 d[kVectors];
    if (!Distances(row, block, limit, d)) continue;
    int32_t bin[kSampleBlock], one[kSampleBlock];
    float weight[kSampleBlock];
    for (int v = 0; v < kVectors; ++v) {
      const I32 within = d[v] <= Set(limit);
      I32 at = ((I32)d[v] - SampleBins::kFirst) >> SampleBins::kShift;
      at = at & (at > 0);
      at = (I32)Select(at < SampleBins::kCount - 1, (F32)at, (F32)Set(SampleBins::kCount - 1));
      Store(bin + v * kLanes, at);
      Store(one + v * kLanes, within & 1);
      if (weigh) Store(weight + v * kLanes, (F32)((I32)ExpOfMinus(d[v]) & within));
    }
    for (int i = 0; i < kSampleBlock; ++i) bins.counts[bin[i]] += one[i];
    if (weigh) {
      for (int i = 0; i < kSampleBlock; ++i) bins.weights[bin[i]] += (double)weight[i];
    }
  }
}

static float* Gather(const SampleRow& row, int64_t begin, int64_t end, float least, float limit, float* out) {
  for (int64_t block = begin; block < end; ++block) {
    F32 d[kVectors];
    if (!Distances(row, block, limit, d)) continue;
    for (int v = 0; v < kVectors; ++v) {
      const I32 within = (d[v] >= Set(least)) & (d[v] <= Set(limit));
      if (!Any(within)) continue;
      for (int i = 0; i < kLanes; ++i) {
        if (within[i]) *out++ = d[v][i];
      }
    }
  }
  return out;
}

static void Weights(const float* distances, int64_t count, float* out) {
  int64_t at = 0;
  for (; at + kLanes <= count; at += kLanes) Store(out + at, ExpOfMinus(Load<F32>(distances + at)));
  for (; at < count; ++at) out[at] = ExpOfMinus(Set(distances[at]))[0];
}

// Of words, numbers between 0 and 1; more than their noise by a little, for a few operations: -log(-log(u)) is less than
// -log(1 - u), and a logarithm to base 2 more than the exponent and the mantissa put together, as they are in the bits.
ZML_INLINE F32 Unit(U32 word) { return (__builtin_convertvector((I32)(word >> 9), F32) + 0.5f) * 0x1p-23f; }
ZML_INLINE F32 MostNoise(U32 word) {
  const F32 bits = __builtin_convertvector((I32)(1.f - Unit(word)), F32);
  return Fma(bits, Set(-0x1p-23f * 0.693147181f), Set(127 * 0.693147181f + 1e-4f));
}

static void Draw(const SampleRow& row, int64_t begin, int64_t end, float limit, const uint32_t* key, SampleBest& best) {
  if (!(limit >= 0)) return;
  // The largest logit is kept, whatever its noise: what is so far away that no noise brings it there need not be looked
  // at; nor what is too far for the best so far.
  float reach = kMostNoise - kLeastNoise;
  U32 index;
  for (int i = 0; i < kLanes; ++i) index[i] = (uint32_t)i;
  float most = best.score;
  F32 top = Set(most);
  I32 token = Set((int32_t)best.token);
  for (int64_t block = begin; block < end; ++block) {
    const float cut = limit < reach ? limit : reach;
    F32 d[kVectors];
    if (!Distances(row, block, cut, d)) continue;
    for (int first = 0; first < kVectors; first += kTogether) {
      I32 kept[kTogether], any = I32{};
      for (int v = 0; v < kTogether; ++v) any |= kept[v] = d[first + v] <= Set(cut);
      if (!Any(any)) continue;
      U32 left[kTogether], right[kTogether];
      const uint32_t from = (uint32_t)(block * kSampleBlock + first * kLanes);
      for (int v = 0; v < kTogether; ++v) left[v] = index + (from + (uint32_t)(v * kLanes));
      Threefry(key, 0, left, right);
      any = I32{};
      for (int v = 0; v < kTogether; ++v) any |= kept[v] &= MostNoise(left[v]) - d[first + v] > Set(most);
      if (!Any(any)) continue;
      for (int v = 0; v < kTogether; ++v) {
        const F32 score = -Log(-Log(Unit(left[v]))) - d[first + v];
        const I32 better = (score > top) & kept[v];
        top = Select(better, score, top);
        token = (better & (I32)(index + (from + (uint32_t)(v * kLanes)))) | (~better & token);
      }
    }
    for (int i = 0; i < kLanes; ++i) most = top[i] > most ? top[i] : most;
    if (kMostNoise - most < reach) reach = kMostNoise - most;
  }
  for (int i = 0; i < kLanes; ++i) {
    if (top[i] > best.score || (top[i] == best.score && token[i] < best.token)) best = {top[i], token[i]};
  }
}

}  // namespace

extern const SampleKernels kSample;
const SampleKernels kSample = {.penalize = Penalize,
                               .peaks = Peaks,
                               .fill = Fill,
                               .gather = Gather,
                               .weights = Weights,
                               .draw = Draw,
                               .threefry = ThreefryOne};

}  // namespace ZML_ISA
}  // namespace zml::cpu
