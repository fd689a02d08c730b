// Attention by every instruction set that is here, against sums in double: `attention_test [seed [cases]]`.
// With a number of cases it does no others, for an emulator.

#include "zml/kernels/cpu/native/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "zml/kernels/cpu/native/isa.h"
#include "zml/kernels/cpu/native/threads_check.h"

namespace zml::cpu {
namespace {

int failures = 0;
unsigned seed = std::random_device()();

#define CHECK(condition, ...)                                \
  do {                                                       \
    if (!(condition)) {                                      \
      std::fprintf(stderr, "seed %u: ", seed);               \
      std::fprintf(stderr, __VA_ARGS__);                     \
      std::fprintf(stderr, "\n");                            \
      if (++failures > 20) std::exit(1);                     \
    }                                                        \
  } while (false)

float FromBf16(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t ToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Elements of a type in exactly as much memory as they need, so that a sanitizer sees what is read beside them.
class Elements {
 public:
  Elements(Type type, int64_t count)
      : type_(type), count_(count), memory_(new char[bytes()]) {}
  char* data() const { return memory_.get(); }
  int64_t count() const { return count_; }
  size_t bytes() const { return static_cast<size_t>(count_ * (type_ == Type::kF32 ? 4 : 2)); }
  float at(int64_t i) const {
    if (type_ == Type::kF32) return reinterpret_cast<const float*>(data())[i];
    if (type_ == Type::kBF16) return FromBf16(reinterpret_cast<const uint16_t*>(data())[i]);
    return static_cast<float>(reinterpret_cast<const _Float16*>(data())[i]);
  }
  void set(int64_t i, float x) {
    if (type_ == Type::kF32) {
      reinterpret_cast<float*>(data())[i] = x;
    } else if (type_ == Type::kBF16) {
      reinterpret_cast<uint16_t*>(data())[i] = ToBf16(x);
    } else {
      reinterpret_cast<_Float16*>(data())[i] = static_cast<_Float16>(x);
    }
  }

 private:
  Type type_;
  int64_t count_;
  std::unique_ptr<char[]> memory_;
};

struct Case {
  Type type = Type::kF32, cache = Type::kF32;
  int64_t batch = 1, queries = 1, group = 1, kv_heads = 1, keys = 1, dim = 8, value_dim = 8;
  // Heads before rows in memory, as in a cache; else rows before heads.
  bool heads_first = false;
  std::vector<int32_t> start{0}, lengths{1};
  bool causal = true;
  int64_t window = 0;
  float softcap = 0;

  std::string text() const {
    std::string s = "type " + std::to_string(int(type)) + " cache " + std::to_string(int(cache));
    for (auto [name, x] : {std::pair{"batch", batch}, {"queries", queries}, {"group", group}, {"kv_heads", kv_heads},
                           {"keys", keys}, {"dim", dim}, {"value_dim", value_dim}, {"heads_first", heads_first},
                           {"causal", causal}, {"window", window}, {"softcap", int64_t(softcap)}}) {
      s += std::string(" ") + name + " " + std::to_string(x);
    }
    for (size_t i = 0; i < start.size(); ++i) s += " [" + std::to_string(start[i]) + ", " + std::to_string(lengths[i]) + "]";
    return s;
  }
};

AttentionStrides Strides(bool heads_first, int64_t rows, int64_t heads, int64_t dim) {
  return heads_first ? AttentionStrides{rows * heads * dim, dim, rows * dim}
                     : AttentionStrides{rows * heads * dim, heads * dim, dim};
}

bool Sees(const Case& c, int64_t sequence, int64_t query, int64_t key) {
  const int64_t distance = c.start[sequence] + query - key;
  return key < c.lengths[sequence] && (distance >= 0 || !c.causal) &&
         (c.window == 0 || (distance < c.window && -distance < c.window));
}

class Trial {
 public:
  Trial(const Case& c, std::mt19937& random)
      : case_(c),
        heads_(c.group * c.kv_heads),
        q_(c.type, c.batch * c.queries * heads_ * c.dim),
        k_(c.cache, c.batch * c.keys * c.kv_heads * c.dim),
        v_(c.cache, c.batch * c.keys * c.kv_heads * c.value_dim),
        out_(c.type, c.batch * c.queries * heads_ * c.value_dim) {
    task_.type = c.type, task_.cache = c.cache;
    task_.q = q_.data(), task_.k = k_.data(), task_.v = v_.data(), task_.out = out_.data();
    task_.batch = c.batch, task_.queries = c.queries, task_.heads = heads_, task_.kv_heads = c.kv_heads;
    task_.keys = c.keys, task_.dim = c.dim, task_.value_dim = c.value_dim;
    task_.q_strides = Strides(false, c.queries, heads_, c.dim);
    task_.out_strides = Strides(false, c.queries, heads_, c.value_dim);
    task_.k_strides = Strides(c.heads_first, c.keys, c.kv_heads, c.dim);
    task_.v_strides = Strides(c.heads_first, c.keys, c.kv_heads, c.value_dim);
    task_.start = c.start.data(), task_.lengths = c.lengths.data();
    task_.causal = c.causal, task_.window = c.window, task_.softcap = c.softcap;
    task_.scale = 1 / std::sqrt(static_cast<float>(c.dim));
    std::normal_distribution<float> normal;
    for (Elements* x : {&q_, &k_, &v_}) {
      for (int64_t i = 0; i < x->count(); ++i) x->set(i, normal(random));
    }
    // What no query sees is NaN.
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t key = 0; key < c.keys; ++key) {
        bool seen = false;
        for (int64_t query = 0; query < c.queries; ++query) seen = seen || Sees(c, b, query, key);
        for (int64_t head = 0; head < c.kv_heads && !seen; ++head) Poison(b, key, head, std::nanf(""));
      }
    }
  }

  void Run(const Kernels& kernels, Threads& threads, std::mt19937& random) {
    RunAttention(*kernels.attention, task_, threads);
    Compare(kernels, -1);
    const std::vector<char> first(out_.data(), out_.data() + out_.bytes());
    for (size_t count : {size_t{0}, size_t{2}}) {
      std::memset(out_.data(), 0x55, out_.bytes());
      Threads others(count);
      RunAttention(*kernels.attention, task_, others);
      CHECK(std::memcmp(first.data(), out_.data(), first.size()) == 0, "%s: other bits with %zu threads: %s", kernels.name,
            count + 1, case_.text().c_str());
    }
    // A value that is not finite is a matter of those alone that see it.
    if (case_.keys == 0 || case_.batch == 0) return;
    const int64_t b = random() % case_.batch, key = random() % case_.keys, head = random() % case_.kv_heads;
    const auto at = [&](const AttentionStrides& s) { return b * s.batch + key * s.row + head * s.head; };
    std::vector<float> kept;
    for (int64_t d = 0; d < case_.dim; ++d) kept.push_back(k_.at(at(task_.k_strides) + d));
    for (int64_t d = 0; d < case_.value_dim; ++d) kept.push_back(v_.at(at(task_.v_strides) + d));
    Poison(b, key, head, std::nanf(""));
    RunAttention(*kernels.attention, task_, threads);
    Compare(kernels, b, key, head);
    for (int64_t d = 0; d < case_.dim; ++d) k_.set(at(task_.k_strides) + d, kept[d]);
    for (int64_t d = 0; d < case_.value_dim; ++d) v_.set(at(task_.v_strides) + d, kept[case_.dim + d]);
  }

 private:
  void Poison(int64_t b, int64_t key, int64_t head, float x) {
    const auto at = [&](const AttentionStrides& s) { return b * s.batch + key * s.row + head * s.head; };
    for (int64_t d = 0; d < case_.dim; ++d) k_.set(at(task_.k_strides) + d, x);
    for (int64_t d = 0; d < case_.value_dim; ++d) v_.set(at(task_.v_strides) + d, x);
  }

  // Against the reference; where a query sees the poisoned key, against NaN.
  void Compare(const Kernels& kernels, int64_t poisoned, int64_t key = 0, int64_t head = 0) const {
    const double tolerance = case_.type == Type::kF32 ? 1e-5 : case_.type == Type::kF16 ? 1e-3 : 8e-3;
    for (int64_t b = 0; b < case_.batch; ++b) {
      for (int64_t query = 0; query < case_.queries; ++query) {
        for (int64_t h = 0; h < heads_; ++h) {
          const bool nan = b == poisoned && h / case_.group == head && Sees(case_, b, query, key);
          const AttentionStrides& s = task_.out_strides;
          const int64_t out = b * s.batch + query * s.row + h * s.head;
          const std::vector<double> expected = nan ? std::vector<double>(case_.value_dim) : Reference(b, query, h);
          for (int64_t d = 0; d < case_.value_dim; ++d) {
            const double got = out_.at(out + d);
            const bool right = nan ? std::isnan(got)
                                   : std::abs(got - expected[d]) <= tolerance * (1 + std::abs(expected[d]));
            CHECK(right, "%s: query %d of head %d of sequence %d: %g instead of %g at %d%s: %s", kernels.name, int(query),
                  int(h), int(b), got, nan ? NAN : expected[d], int(d), poisoned < 0 ? "" : " (poisoned)",
                  case_.text().c_str());
            if (!right) return;
          }
        }
      }
    }
  }

  std::vector<double> Reference(int64_t b, int64_t query, int64_t h) const {
    const int64_t head = h / case_.group;
    std::vector<double> scores(case_.keys), sum(case_.value_dim);
    double greatest = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t key = 0; key < case_.keys; ++key) {
      if (!Sees(case_, b, query, key)) continue;
      double score = 0;
      for (int64_t d = 0; d < case_.dim; ++d) {
        score += double(q_.at(b * task_.q_strides.batch + query * task_.q_strides.row + h * task_.q_strides.head + d)) *
                 k_.at(b * task_.k_strides.batch + key * task_.k_strides.row + head * task_.k_strides.head + d);
      }
      score *= task_.scale;
      if (case_.softcap > 0) score = case_.softcap * std::tanh(score / case_.softcap);
      scores[key] = score;
      greatest = std::max(greatest, score);
    }
    for (int64_t key = 0; key < case_.keys; ++key) {
      if (!Sees(case_, b, query, key)) continue;
      const double weight = std::exp(scores[key] - greatest);
      total += weight;
      for (int64_t d = 0; d < case_.value_dim; ++d) {
        sum[d] += weight * v_.at(b * task_.v_strides.batch + key * task_.v_strides.row + head * task_.v_strides.head + d);
      }
    }
    if (total > 0) {
      for (double& x : sum) x /= total;
    }
    return sum;
  }

  Case case_;
  int64_t heads_;
  Elements q_, k_, v_, out_;
  AttentionTask task_{};
};

Case Draw(std::mt19937& random) {
  const auto below = [&](int64_t end) { return static_cast<int64_t>(random() % static_cast<uint64_t>(end)); };
  const auto one = [&](std::vector<int64_t> of) { return of[below(of.size())]; };
  Case c;
  c.type = static_cast<Type>(below(3)), c.cache = static_cast<Type>(below(3));
  c.batch = 1 + below(3), c.group = one({1, 2, 3, 4, 5, 6, 7, 9}), c.kv_heads = 1 + below(3);
  c.queries = one({1, 1, 1, 2, 3, 4, 5, 9, 20, 70});
  c.keys = one({1, 2, 13, 64, 100, 129, 300, 700});
  c.dim = one({1, 7, 10, 16, 32, 64, 72, 80, 96, 128});
  c.value_dim = below(3) != 0 ? c.dim : one({1, 9, 16, 33, 64});
  c.heads_first = below(2) != 0;
  c.causal = below(4) != 0;
  c.window = one({0, 0, 1, 5, 64, 200});
  c.softcap = static_cast<float>(one({0, 0, 0, 2, 30}));
  c.start.clear(), c.lengths.clear();
  for (int64_t b = 0; b < c.batch; ++b) {
    c.start.push_back(static_cast<int32_t>(below(3) == 0 ? 0 : below(c.keys + 2)));
    c.lengths.push_back(static_cast<int32_t>(below(2) == 0 ? c.keys : below(c.keys + 3)));
  }
  return c;
}

// Sizes at which the work is divided differently.
std::vector<Case> Borders() {
  std::vector<Case> cases;
  for (const int64_t queries : {int64_t{6}, int64_t{7}, int64_t{300}}) {
    Case c;
    c.type = c.cache = Type::kBF16;
    c.queries = queries, c.group = 4, c.keys = 2500, c.dim = c.value_dim = 16, c.heads_first = true;
    c.start = {static_cast<int32_t>(c.keys - queries)}, c.lengths = {static_cast<int32_t>(c.keys)};
    cases.push_back(c);
    c.window = 1200, c.cache = Type::kF32;
    cases.push_back(c);
  }
  Case none;
  none.keys = 0, none.lengths = {0};
  cases.push_back(none);
  Case early;
  early.keys = 5, early.start = {-3}, early.lengths = {5}, early.queries = 6;
  cases.push_back(early);
  return cases;
}

}  // namespace
}  // namespace zml::cpu

int main(int count, char** arguments) {
  using namespace zml::cpu;
  if (count > 1) seed = static_cast<unsigned>(std::stoul(arguments[1]));
  std::mt19937 random(seed);
  Threads threads(1);
  std::vector<Case> cases;
  if (count <= 2) cases = Borders();
  const int drawn = count > 2 ? std::stoi(arguments[2]) : 120;
  for (int i = 0; i < drawn; ++i) cases.push_back(Draw(random));
  for (const Case& c : cases) {
    Trial trial(c, random);
    for (const Kernels* const* kernels = AvailableKernels(); *kernels != nullptr; ++kernels) {
      trial.Run(**kernels, threads, random);
    }
  }
  return failures == 0 ? 0 : 1;
}
