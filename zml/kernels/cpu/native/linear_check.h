// What the tests of linear layers share: products by every instruction set that the processor has, against sums in double.
//
// Weights and activations lie in blocks of memory of just their size, so that a sanitizer sees what is read beyond, and
// begin where only their type's alignment holds.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "zml/kernels/cpu/native/gemm.h"
#include "zml/kernels/cpu/native/isa.h"
#include "zml/kernels/cpu/native/linear.h"
#include "zml/kernels/cpu/native/threads_check.h"

namespace zml::cpu {
namespace {

int failures = 0, checks = 0;

void Fail(const std::string& what) {
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

std::mt19937_64 generator;

double Random(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }
size_t Below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(generator); }

// Numbers of a type, at an odd multiple of its size behind a block's begin and up to its end.
struct Numbers {
  Type type = Type::kF32;
  size_t size = 0;
  std::unique_ptr<char[]> block;

  Numbers() = default;
  Numbers(Type type, size_t size) : type(type), size(size), block(new char[Bytes() * (size + 1)]) {}
  size_t Bytes() const { return type == Type::kF32 ? 4 : 2; }
  char* data() const { return block.get() + Bytes(); }

  void Set(size_t i, double value) {
    const float f = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (type == Type::kF32) {
      std::memcpy(data() + 4 * i, &f, 4);
    } else if (type == Type::kBF16) {
      const uint16_t half = f != f ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
      std::memcpy(data() + 2 * i, &half, 2);
    } else {
      const _Float16 half = static_cast<_Float16>(f);
      std::memcpy(data() + 2 * i, &half, 2);
    }
  }
  double Get(size_t i) const {
    if (type == Type::kF32) {
      float f;
      std::memcpy(&f, data() + 4 * i, 4);
      return f;
    }
    if (type == Type::kF16) {
      _Float16 half;
      std::memcpy(&half, data() + 2 * i, 2);
      return static_cast<double>(half);
    }
    uint16_t half;
    std::memcpy(&half, data() + 2 * i, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }
};

Numbers RandomNumbers(Type type, size_t size, double spread) {
  Numbers numbers(type, size);
  for (size_t i = 0; i < size; ++i) numbers.Set(i, Random(-spread, spread));
  return numbers;
}

// A weight [n, k] in memory, and what it stands for.
struct StoredWeight {
  Weight weight;
  size_t k;
  Numbers dense, scales;
  std::unique_ptr<uint8_t[]> packed;
  std::vector<double> exact;
};

StoredWeight RandomWeight(Format format, Type type, size_t n, size_t k) {
  StoredWeight stored{{format, type, nullptr, nullptr, n}, k, {}, {}, {}, std::vector<double>(n * k)};
  if (format == Format::kDense) {
    stored.dense = RandomNumbers(type, n * k, 1);
    for (size_t i = 0; i < n * k; ++i) stored.exact[i] = stored.dense.Get(i);
    stored.weight.values = stored.dense.data();
    return stored;
  }
  const size_t blocks = (n + 15) / 16, groups = (k + 31) / 32;
  const bool int4 = format == Format::kInt4, channel = format == Format::kInt8Channel;
  const size_t bytes = blocks * groups * (int4 ? 256 : 512), scales = blocks * (channel ? 1 : groups) * 16;
  // One byte too many, so that vectors are not aligned.
  stored.packed.reset(new uint8_t[bytes + 1]);
  uint8_t* values = stored.packed.get() + 1;
  std::memset(values, int4 ? 0x88 : 0, bytes);
  stored.scales = Numbers(channel ? Type::kF32 : Type::kBF16, scales);
  for (size_t i = 0; i < scales; ++i) stored.scales.Set(i, 0);
  for (size_t row = 0; row < n; ++row) {
    for (size_t column = 0; column < k; ++column) {
      const size_t r = row / 16, i = row % 16, g = column / 32, c = column % 32, at = r * groups + g;
      const size_t scale = channel ? r * 16 + i : at * 16 + i;
      if (c == 0 && (g == 0 || !channel)) stored.scales.Set(scale, Random(0.001, 1) * (Below(2) == 0 ? 1 : -1));
      int q;
      if (int4) {
        q = static_cast<int>(Below(16)) - 8;
        // A row's 4 bytes are two numbers of 16 bits, for even columns and for odd, with a nibble for each.
        const size_t v = c / 8, j = c % 2, s = c % 8 / 2, shift = s % 2 * 4;
        uint8_t& byte = values[at * 256 + v * 64 + i * 4 + j * 2 + s / 2];
        byte = static_cast<uint8_t>((byte & ~(15 << shift)) | (q + 8) << shift);
      } else {
        q = static_cast<int>(Below(255)) - 127;
        values[at * 512 + c / 2 * 32 + i * 2 + c % 2] = static_cast<uint8_t>(static_cast<int8_t>(q));
      }
      stored.exact[row * k + column] = q * stored.scales.Get(scale);
    }
  }
  stored.weight.values = values;
  stored.weight.scales = stored.scales.data();
  return stored;
}

double Activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return x * std::erfc(-x * std::sqrt(0.5)) / 2;
    case Activation::kGeluTanh:
      // 1 + tanh(u) = 2 / (1 + exp(-2 u)), which does not cancel out.
      return x / (1 + std::exp(-2 * std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case Activation::kQuickGelu:
      return x / (1 + std::exp(-1.702 * x));
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kRelu2:
      return x < 0 ? 0 : x * x;
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return 0;
}

double Rounding(Type type) { return type == Type::kF32 ? 0x1p-23 : type == Type::kBF16 ? 0x1.01p-8 : 0x1.01p-11; }

// A sum, and how far from it a float may be.
struct Bounded {
  double value, error;
};

// `few`: by the kernel for few rows, which has x in 8 bits for int4. `rounded`: with int4 rounded to bfloat16.
Bounded Exact(const StoredWeight& weight, const Numbers& x, size_t row, size_t n, bool few, bool rounded) {
  const size_t k = weight.k;
  double value = 0, magnitude = 0, quantized = 0;
  for (size_t group = 0; group < k; group += 32) {
    double most = 0, weights = 0;
    for (size_t c = group; c < std::min(k, group + 32); ++c) {
      const double a = x.Get(row * k + c), b = weight.exact[n * k + c];
      value += a * b;
      magnitude += std::abs(a * b);
      most = std::max(most, std::abs(a));
      weights += std::abs(b);
    }
    // Half a unit of x's numbers for each, and a little more, as the unit itself is rounded.
    quantized += most / (few && weight.weight.format == Format::kInt4 ? 127 : 32767) * 0.51 * weights;
  }
  const bool dense = weight.weight.format == Format::kDense;
  // Each of four lanes or more sums up in float32; packed, a number for each group.
  const double steps = static_cast<double>(dense || rounded ? k / 4 + 8 : k / 32 + 8);
  const double lost = dense ? 0 : rounded ? magnitude * Rounding(Type::kBF16) : quantized;
  return {value, steps * std::ldexp(magnitude, -24) + lost};
}

struct Kind {
  Format format;
  Type type;
};

constexpr Kind kKinds[] = {{Format::kDense, Type::kF32}, {Format::kDense, Type::kBF16},       {Format::kDense, Type::kF16},
                           {Format::kInt8, Type::kF32},  {Format::kInt8Channel, Type::kF32}, {Format::kInt4, Type::kF32}};
constexpr Type kTypes[] = {Type::kF32, Type::kBF16, Type::kF16};

struct Case {
  Format format;
  Type weight, x, y, bias;
  size_t m, k;
  std::vector<size_t> n;
  bool biased;
  Activation activation;

  std::string Name() const {
    std::string name = "format " + std::to_string(static_cast<int>(format)) + " weight " + std::to_string(static_cast<int>(weight)) +
                       " x " + std::to_string(static_cast<int>(x)) + " y " + std::to_string(static_cast<int>(y)) +
                       " activation " + std::to_string(static_cast<int>(activation)) + (biased ? " biased" : "") + " m " +
                       std::to_string(m) + " k " + std::to_string(k) + " n";
    for (size_t each : n) name += " " + std::to_string(each);
    return name;
  }
};

// What is tested: Linear, or what it calls.
using Function = void (*)(const Kernels&, Pool&, size_t workers, const LinearTask&);

constexpr char kGuard = 0x5a;

std::vector<std::vector<char>> Run(Function function, const Kernels& kernels, Pool& pool, size_t workers, const Case& c, LinearTask task,
                                   const std::string& name) {
  const size_t outputs = c.activation == Activation::kNone ? c.n.size() : 1, bytes = c.y == Type::kF32 ? 4 : 2, guard = 64 + bytes;
  std::vector<std::vector<char>> ys;
  for (size_t i = 0; i < outputs; ++i) ys.emplace_back(task.m * c.n[i] * bytes + 2 * guard, kGuard);
  for (size_t i = 0; i < outputs; ++i) task.y[i] = ys[i].data() + guard;
  function(kernels, pool, workers, task);
  for (std::vector<char>& y : ys) {
    for (size_t i = 0; i < guard; ++i) {
      if (y[i] != kGuard || y[y.size() - 1 - i] != kGuard) return Fail(name + ": wrote beside y"), ys;
    }
    y = std::vector<char>(y.begin() + static_cast<std::ptrdiff_t>(guard), y.end() - static_cast<std::ptrdiff_t>(guard));
  }
  return ys;
}

void Check(Function function, const Case& c, Threads& pool) {
  Numbers x = RandomNumbers(c.x, c.m * c.k, 1);
  // Groups of very different sizes, as outliers make them.
  for (size_t i = 0; i < c.m * c.k; ++i) x.Set(i, x.Get(i) * std::exp2(static_cast<double>(i / 32 * 7 % 9) - 4));
  std::vector<StoredWeight> weights;
  std::vector<Numbers> biases;
  LinearTask task = {};
  task.m = c.m;
  task.k = c.k;
  task.x_type = c.x;
  task.x = x.data();
  task.count = c.n.size();
  task.bias_type = c.bias;
  task.activation = c.activation;
  task.y_type = c.y;
  for (size_t n : c.n) {
    weights.push_back(RandomWeight(c.format, c.weight, n, c.k));
    biases.push_back(RandomNumbers(c.bias, n, 1));
  }
  for (size_t i = 0; i < c.n.size(); ++i) {
    task.weights[i] = weights[i].weight;
    // The first of three may have none while others do.
    task.bias[i] = c.biased && (i != 0 || c.n.size() < 3) ? biases[i].data() : nullptr;
  }

  const bool few = function == Linear && c.m <= kMaxRows;
  for (const Kernels* const* isa = AvailableKernels(); *isa != nullptr; ++isa) {
    const bool rounded = !few && (*isa)->gemm->product(c.format, c.weight, c.x) == Product::kBF16;
    const std::string name = std::string((*isa)->name) + ": " + c.Name();
    const auto ys = Run(function, **isa, pool, 1, c, task, name);
    ++checks;
    for (size_t workers = 2; workers <= 3; ++workers) {
      if (Run(function, **isa, pool, workers, c, task, name) != ys) Fail(name + ": threads change the result");
    }
    if (c.m > 1 && (few || function != Linear)) {
      LinearTask last = task;
      last.m = 1;
      last.x = x.data() + (c.m - 1) * c.k * x.Bytes();
      const auto row = Run(function, **isa, pool, 1, c, last, name);
      for (size_t i = 0; i < ys.size(); ++i) {
        if (!std::equal(row[i].rbegin(), row[i].rend(), ys[i].rbegin())) Fail(name + ": the other rows change a row");
      }
    }
    for (size_t i = 0; i < ys.size(); ++i) {
      Numbers y(c.y, c.m * c.n[i]);
      std::copy(ys[i].begin(), ys[i].end(), y.data());
      for (size_t row = 0; row < c.m; ++row) {
        for (size_t n = 0; n < c.n[i]; ++n) {
          const auto sum = [&](size_t side) {
            Bounded product = Exact(weights[side], x, row, n, few, rounded);
            if (task.bias[side] != nullptr) product.value += biases[side].Get(n);
            product.error += std::ldexp(std::abs(product.value), -23);
            return product;
          };
          Bounded expected = sum(i);
          if (c.activation != Activation::kNone) {
            const Bounded gate = expected, up = sum(1);
            const double activated = Activated(c.activation, gate.value);
            // How far the activation of anything within the bounds is from that of the middle, and what floats of it lose: an
            // exponential's relative error is its exponent's absolute one.
            const double exponent = std::min(std::abs(gate.value * gate.value * gate.value) + std::abs(gate.value), 100.0);
            double spread = std::abs(activated) * 0x1p-22 * (4 + exponent) + 1e-30, most = 0;
            for (int step = -8; step <= 8; ++step) {  // an extreme may lie within
              most = std::max(most, std::abs(Activated(c.activation, gate.value + gate.error * step / 8) - activated));
            }
            spread += most * 1.05;
            expected = {activated * up.value, spread * (std::abs(up.value) + up.error) + std::abs(activated) * up.error};
          }
          const double error = expected.error + std::abs(expected.value) * Rounding(c.y) + (c.y == Type::kF16 ? 0x1p-25 : 1e-36);
          const double got = y.Get(row * c.n[i] + n);
          const bool overflow = c.y == Type::kF16 && std::abs(expected.value) + error > 65000;
          if (!(std::abs(got - expected.value) <= error) && !overflow) {
            Fail(name + ": y[" + std::to_string(i) + "][" + std::to_string(row) + ", " + std::to_string(n) + "] is " +
                 std::to_string(got) + ", expected " + std::to_string(expected.value) + " +- " + std::to_string(error));
          }
        }
      }
    }
  }
}

// What is not finite in a row of x spoils all of that row, and nothing else.
void CheckNotFinite(Function function, Format format, Type type, Type x_type, double bad, size_t m, Threads& pool) {
  const size_t k = 77, n = 21;
  Numbers x = RandomNumbers(x_type, m * k, 1);
  x.Set(k + Below(k), bad);  // in row 1
  const StoredWeight weight = RandomWeight(format, type, n, k);
  Case c = {format, type, x_type, Type::kF32, Type::kF32, m, k, {n}, false, Activation::kNone};
  LinearTask task = {};
  task.m = m;
  task.k = k;
  task.x_type = x_type;
  task.x = x.data();
  task.count = 1;
  task.weights[0] = weight.weight;
  task.y_type = Type::kF32;
  for (const Kernels* const* isa = AvailableKernels(); *isa != nullptr; ++isa) {
    const std::string name = std::string((*isa)->name) + ": not finite, " + c.Name();
    ++checks;
    const auto ys = Run(function, **isa, pool, 2, c, task, name);
    std::vector<float> y(m * n);
    std::memcpy(y.data(), ys[0].data(), ys[0].size());
    for (size_t i = 0; i < m * n; ++i) {
      if (std::isfinite(y[i]) == (i / n == 1)) Fail(name + ": y[" + std::to_string(i / n) + "] is " + std::to_string(y[i]));
    }
  }
}

// Calls `check` with a seed that the arguments may give, and says what came of it.
int Main(int argc, char** argv, void (*check)()) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device()();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  generator.seed(seed);
  check();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace
}  // namespace zml::cpu
