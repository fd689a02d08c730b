// Quantized weights are the same on every instruction set, of this processor and of all others.
//
// Weights and results lie in blocks of memory of just their size, so that a sanitizer sees what is read or written beyond,
// and the weights begin where only their type's alignment holds.

#include "zml/kernels/cpu/native/quantize.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "zml/kernels/cpu/native/isa.h"

namespace zml::cpu {
namespace {

// FNV-1a of all results. That they are right is what zml/kernels/cpu/quantize_test.py checks.
constexpr uint64_t kExpected = 0xde9084c9518dafc1;
constexpr int kRounds = 60;

class Digest {
 public:
  void Add(uint8_t byte) { hash_ = (hash_ ^ byte) * 1099511628211u; }
  void Add(const uint8_t* bytes, size_t count) {
    for (size_t i = 0; i < count; ++i) Add(bytes[i]);
  }
  uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_ = 14695981039346656037u;
};

class Random {
 public:
  uint32_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 16);
  }

 private:
  uint64_t state_ = 88172645463325252u;
};

// The bits of an element: of a few neighbouring powers of two, denormal, or of the whole range; in a tenth of the rounds
// any, NaN and infinity among them.
uint32_t Element(Type type, int round, Random& random) {
  const uint32_t bits = random.Next(), power = random.Next();
  if (type == Type::kF16) return round % 10 == 0 ? bits & 0xffff : (bits & 0x83ff) | (power % 31) << 10;
  const uint32_t exponent = round % 3 == 0 ? 100 + power % 30 : round % 3 == 1 ? power % 20 : power % 255;
  const uint32_t f32 = round % 10 == 0 ? bits : (bits & 0x807fffff) | exponent << 23;
  return type == Type::kF32 ? f32 : f32 >> 16;
}

uint64_t Run(const QuantizeKernels& kernels, int* refused) {
  Digest digest;
  Random random;
  for (int round = 0; round < kRounds; ++round) {
    const size_t rows = 1 + random.Next() % 50, columns = 1 + random.Next() % 150;
    const size_t blocks = (rows + 15) / 16, groups = (columns + 31) / 32;
    for (const Type type : {Type::kF32, Type::kBF16, Type::kF16}) {
      const size_t bytes = type == Type::kF32 ? 4 : 2;
      const std::unique_ptr<uint8_t[]> memory(new uint8_t[(rows * columns + 1) * bytes]);
      uint8_t* w = memory.get() + bytes;
      for (size_t i = 0; i < rows * columns; ++i) {
        const uint32_t bits = Element(type, round, random);
        std::memcpy(w + i * bytes, &bits, bytes);
      }
      for (const Format format : {Format::kInt8, Format::kInt8Channel, Format::kInt4}) {
        std::vector<uint8_t> values(blocks * groups * (format == Format::kInt4 ? 256 : 512));
        std::vector<uint8_t> scales(format == Format::kInt8Channel ? blocks * 64 : blocks * groups * 32);
        const bool finite = kernels.quantize(format, type, w, rows, columns, values.data(), scales.data());
        digest.Add(finite);
        if (finite) {
          digest.Add(values.data(), values.size());
          digest.Add(scales.data(), scales.size());
        } else {
          ++*refused;
        }
      }
    }
  }
  return digest.hash();
}

int Main() {
  int failures = 0;
  for (const Kernels* const* isa = AvailableKernels(); *isa != nullptr; ++isa) {
    int refused = 0;
    const uint64_t hash = Run(*(*isa)->quantize, &refused);
    const bool good = hash == kExpected && refused > 0 && refused <= kRounds / 10 * 9;
    std::printf("%s %s: %016llx, %d refused\n", good ? "ok" : "FAILED:", (*isa)->name,
                static_cast<unsigned long long>(hash), refused);
    failures += !good;
  }
  return failures != 0;
}

}  // namespace
}  // namespace zml::cpu

int main() { return zml::cpu::Main(); }
