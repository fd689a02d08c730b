// The product of many rows.

#include "zml/kernels/cpu/native/gemm.h"

#include "zml/kernels/cpu/native/linear_check.h"

namespace zml::cpu {
namespace {

void CheckAll() {
  Threads pool(2);
  for (const Kind& kind : kKinds) {
    for (Type x : kTypes) {
      const auto check = [&](size_t m, size_t k, std::vector<size_t> n, bool biased, Activation activation = Activation::kNone) {
        Check(Gemm, {kind.format, kind.type, x, kTypes[Below(3)], kTypes[Below(3)], m, k, n, biased, activation}, pool);
      };
      // Panels of every height, and more than one block of rows.
      for (size_t m = 1; m <= 25; ++m) check(m, 1 + Below(200), {1 + Below(100)}, Below(2) == 0);
      for (size_t m : {31, 37, 53, 70}) check(m, 1 + Below(200), {1 + Below(100)}, Below(2) == 0);
      check(258 + Below(80), 1 + Below(100), {1 + Below(60)}, true);
      // The edges of K, of a word, a vector, a group and a block.
      for (size_t k : {0, 1, 2, 7, 8, 9, 31, 32, 33, 255, 256, 257, 511, 512, 513, 544}) check(17 + Below(8), k, {1 + Below(50)}, true);
      for (size_t n : {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129}) check(17 + Below(8), 1 + Below(100), {n}, true);
      check(20, 1100 + Below(100), {70 + Below(100)}, false);
      check(18 + Below(50), 50 + Below(100), {1 + Below(90), 1 + Below(90)}, true);
      check(18 + Below(50), 50 + Below(100), {1 + Below(90), 1 + Below(90), 1 + Below(90)}, true);
      check(0, 50, {7}, false);
      check(20, 50, {0}, false);
      const size_t n = 1 + Below(150);
      check(18 + Below(10), 1 + Below(20), {n, n}, Below(2) == 0, static_cast<Activation>(1 + Below(7)));
      check(18 + Below(10), 600 + Below(20), {n, n}, true, Activation::kSilu);
      for (double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) CheckNotFinite(Gemm, kind.format, kind.type, x, bad, 19, pool);
    }
  }
  // More of x than is packed at a time.
  Check(Gemm, {Format::kDense, Type::kBF16, Type::kF32, Type::kF32, Type::kF32, 150, 20000, {3}, false, Activation::kNone}, pool);
}

}  // namespace
}  // namespace zml::cpu

int main(int argc, char** argv) { return zml::cpu::Main(argc, argv, zml::cpu::CheckAll); }
