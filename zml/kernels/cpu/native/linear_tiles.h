// What the products of a few rows with dense and with packed weights share.
#pragma once

#include "zml/kernels/cpu/native/simd.h"

namespace zml::cpu::ZML_ISA {
namespace {

// Rows of a weight that have their sums at a time; the rows of a block of the packed formats.
constexpr size_t kBlock = 16;

constexpr size_t Ceil(size_t a, size_t b) { return (a + b - 1) / b; }
constexpr size_t Min(size_t a, size_t b) { return a < b ? a : b; }

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

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

}  // namespace
}  // namespace zml::cpu::ZML_ISA
