// Vectors of the instruction set that is compiled for: clang's vector types, and intrinsics where those fall short.
//
// Included by the sources that are compiled once for each set, with -DZML_ISA=name. All of it has internal linkage or is
// in the namespace of that name, and nothing of the standard library is used that the compiler might not inline: the
// linker keeps one copy of an inline function, and that could be one for a processor that is not here.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define ZML_INLINE static inline __attribute__((always_inline))

namespace zml::cpu::ZML_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// kLanes elements of 32 bits, and as many bytes of the narrow types.
typedef float F32 __attribute__((vector_size(kLanes * 4)));
typedef int32_t I32 __attribute__((vector_size(kLanes * 4)));
typedef uint32_t U32 __attribute__((vector_size(kLanes * 4)));
typedef int16_t I16 __attribute__((vector_size(kLanes * 4)));
typedef uint16_t U16 __attribute__((vector_size(kLanes * 4)));
typedef int8_t I8 __attribute__((vector_size(kLanes * 4)));
typedef uint8_t U8 __attribute__((vector_size(kLanes * 4)));
// kLanes elements of the narrow types.
typedef uint16_t U16Half __attribute__((vector_size(kLanes * 2)));
typedef int16_t I16Half __attribute__((vector_size(kLanes * 2)));
typedef _Float16 F16Half __attribute__((vector_size(kLanes * 2)));
typedef int8_t I8Half __attribute__((vector_size(kLanes * 2)));

// A vector from memory of any alignment, and into it.
template <typename V>
ZML_INLINE V Load(const void* from) {
  V x;
  __builtin_memcpy(&x, from, sizeof(V));
  return x;
}

template <typename V>
ZML_INLINE void Store(void* to, V x) {
  __builtin_memcpy(to, &x, sizeof(V));
}

// x - 0 is x, which the compiler knows; 0 + x is not where x is -0, and an addition.
ZML_INLINE F32 Set(float x) { return x - F32{}; }
ZML_INLINE I32 Set(int32_t x) { return I32{} + x; }

// a * b + c, rounded once where the processor can.
ZML_INLINE F32 Fma(F32 a, F32 b, F32 c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_elementwise_fma(a, b, c);
#else
  return a * b + c;
#endif
}

ZML_INLINE F32 FromBf16(U16Half x) { return (F32)(__builtin_convertvector(x, U32) << 16); }
ZML_INLINE F32 LoadBf16(const uint16_t* from) { return FromBf16(Load<U16Half>(from)); }
ZML_INLINE F32 LoadF16(const uint16_t* from) { return __builtin_convertvector(Load<F16Half>(from), F32); }

// To the nearest bfloat16, ties to even; NaN stays NaN.
ZML_INLINE U16Half ToBf16(F32 x) {
#if defined(__AVX512BF16__)
  return (U16Half)_mm512_cvtneps_pbh((__m512)x);
#else
  U32 bits = (U32)x;
  const U32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const I32 nan = x != x;
  return __builtin_convertvector(((U32)nan & ((bits >> 16) | 0x40)) | (~(U32)nan & rounded), U16Half);
#endif
}

// acc + the products of neighbours in pairs: acc[i] + a[2i] b[2i] + a[2i + 1] b[2i + 1].
ZML_INLINE I32 DotPairs(I16 a, I16 b, I32 acc) {
#if defined(__AVX512VNNI__)
  return (I32)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
  return acc + (I32)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return acc + (I32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return acc + (I32)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  const int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
  const int32x4_t high = vmull_high_s16((int16x8_t)a, (int16x8_t)b);
  return acc + (I32)vpaddq_s32(low, high);
#else
  const I32 x = (I32)a, y = (I32)b;
  return acc + ((x << 16) >> 16) * ((y << 16) >> 16) + (x >> 16) * (y >> 16);
#endif
}

ZML_INLINE float Sum(F32 x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#elif defined(__AVX2__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}

ZML_INLINE float FromBf16(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}

ZML_INLINE uint16_t ToBf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (x != x) return (uint16_t)((bits >> 16) | 0x40);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

ZML_INLINE void Prefetch(const void* from) { __builtin_prefetch(from, 0, 3); }

}  // namespace zml::cpu::ZML_ISA
