// Linear layers of few rows, and those of many that are left to Gemm.

#include "zml/kernels/cpu/native/linear_check.h"

namespace zml::cpu {
namespace {

void CheckAll() {
  Threads pool(2);
  const Type none = Type::kF32;
  for (const Kind& kind : kKinds) {
    for (Type x : kTypes) {
      for (size_t m : {1, 2, 3, 4, 5, 6, 7, 8, 11, 15, 16, 17, 33}) {
        Check(Linear, {kind.format, kind.type, x, kTypes[Below(3)], x, m, 1 + Below(300), {1 + Below(100)}, Below(2) == 0, Activation::kNone}, pool);
      }
      // The edges.
      for (size_t k : {0, 1, 2, 31, 32, 33, 63, 64, 65, 128}) {
        for (size_t n : {1, 15, 16, 17, 32}) {
          Check(Linear, {kind.format, kind.type, x, Type::kF32, none, 1 + Below(3), k, {n}, true, Activation::kNone}, pool);
        }
      }
      // Longer than what is in the cache of x, and many parts.
      Check(Linear, {kind.format, kind.type, x, x, x, 1 + Below(16), 4096 + Below(100), {40}, false, Activation::kNone}, pool);
      Check(Linear, {kind.format, kind.type, x, x, x, 1 + Below(4), 150 + Below(100), {2000 + Below(100)}, false, Activation::kNone}, pool);
      Check(Linear, {kind.format, kind.type, x, x, x, 1 + Below(5), 50 + Below(100), {1 + Below(90), 1 + Below(90)}, true, Activation::kNone}, pool);
      Check(Linear, {kind.format, kind.type, x, x, x, 1 + Below(5), 50 + Below(100), {1 + Below(90), 1 + Below(90), 1 + Below(90)}, true, Activation::kNone}, pool);
      Check(Linear, {kind.format, kind.type, x, x, x, 0, 50, {7}, false, Activation::kNone}, pool);
      for (int activation = 1; activation <= static_cast<int>(Activation::kSigmoid); ++activation) {
        const size_t n = 1 + Below(300);
        Check(Linear, {kind.format, kind.type, x, kTypes[Below(3)], none, 1 + Below(5), 1 + Below(20), {n, n}, Below(2) == 0, static_cast<Activation>(activation)}, pool);
      }
      for (double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) CheckNotFinite(Linear, kind.format, kind.type, x, bad, 3, pool);
    }
  }
}

}  // namespace
}  // namespace zml::cpu

int main(int argc, char** argv) { return zml::cpu::Main(argc, argv, zml::cpu::CheckAll); }
