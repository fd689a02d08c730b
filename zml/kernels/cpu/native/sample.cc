// Sampling's steps: they leave no trace of how a row was divided, so that it does not depend on the number of threads.

#include "zml/kernels/cpu/native/sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "zml/kernels/cpu/native/parallel.h"

namespace zml::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
// The blocks of a part of a row: many enough that it pays to hand one over, few enough for many processors.
constexpr int64_t kPartBlocks = 192;

uint32_t Bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  return bits;
}

float FromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Runs body(part) for each part of a row.
using Run = std::function<void(int64_t parts, const std::function<void(int64_t)>& body)>;

class Sampler {
 public:
  Sampler(const SampleKernels& kernels, const SampleTask& task, int64_t number, const Run& run)
      : kernels_(kernels), task_(task), number_(number), run_(run), logits_(task.logits + number * task.count) {}

  int32_t Token() {
    Look();
    if (!std::isfinite(row_.largest)) return -1;
    if (!(task_.temperature[number_] > 0)) return Greedy();
    // Some devices take what is below the least normal float for 0; a logit may be infinitely far away.
    row_.temperature = std::max(task_.temperature[number_], std::numeric_limits<float>::min());
    float limit = kInf;
    if (task_.top_k[number_] > 0) limit = WithinTopK(task_.top_k[number_]);
    if (task_.top_p[number_] < 1) limit = Least(limit, true, task_.top_p[number_]);
    // A share of the greatest probability is a distance, too. Of NaN, nothing is kept.
    const float share = -static_cast<float>(std::log(static_cast<double>(task_.min_p[number_])));
    if (!(limit <= share)) limit = share;
    return Draw(limit);
  }

 private:
  int64_t Blocks() const { return (task_.count + kSampleBlock - 1) / kSampleBlock; }
  int64_t Parts() const { return (Blocks() + kPartBlocks - 1) / kPartBlocks; }

  // Calls body(part, first block, end) for all parts.
  template <class Body>
  void ForParts(const Body& body) const {
    run_(Parts(), [&](int64_t part) {
      body(part, part * kPartBlocks, std::min(Blocks(), (part + 1) * kPartBlocks));
    });
  }

  // Penalties, and the peaks.
  void Look() {
    const float repetition = task_.repetition[number_], presence = task_.presence[number_];
    const float frequency = task_.frequency[number_];
    const bool penalties = task_.prompt != nullptr && (repetition != 1 || presence != 0 || frequency != 0);
    if (penalties) penalized_.reset(new float[task_.count]);
    peaks_.reset(new float[Blocks()]);
    std::vector<float> largest(Parts());
    ForParts([&](int64_t part, int64_t begin, int64_t end) {
      const int64_t first = begin * kSampleBlock, count = std::min(task_.count, end * kSampleBlock) - first;
      const float* logits = logits_ + first;
      if (penalties) {
        const int64_t at = number_ * task_.count + first;
        kernels_.penalize(logits, task_.prompt + at, task_.generated + at, count, repetition, presence, frequency,
                          penalized_.get() + first);
        logits = penalized_.get() + first;
      }
      float* peaks = peaks_.get() + begin;
      kernels_.peaks(logits, count, peaks);
      largest[part] = Largest(peaks, end - begin);
    });
    row_ = {penalties ? penalized_.get() : logits_, task_.count, peaks_.get(), Largest(largest.data(), Parts()), 1};
  }

  // NaN where one is NaN.
  static float Largest(const float* x, int64_t count) {
    float found = -kInf;
    bool nan = false;
    for (int64_t i = 0; i < count; ++i) {
      nan |= x[i] != x[i];
      found = x[i] > found ? x[i] : found;
    }
    return nan ? std::numeric_limits<float>::quiet_NaN() : found;
  }

  int32_t Greedy() const {
    const float* block = std::find(row_.peaks, row_.peaks + Blocks(), row_.largest);
    const float* begin = row_.logits + (block - row_.peaks) * kSampleBlock;
    return static_cast<int32_t>(std::find(begin, row_.logits + row_.count, row_.largest) - row_.logits);
  }

  float WithinTopK(int64_t top_k) const {
    top_k = std::min(top_k, task_.count);
    // As many peaks as k are within the k-th peak, so that the k-th logit is, too.
    float limit = kInf;
    if (top_k <= Blocks()) {
      std::vector<float> peaks(row_.peaks, row_.peaks + Blocks());
      std::nth_element(peaks.begin(), peaks.begin() + (top_k - 1), peaks.end(), std::greater<float>());
      limit = Distance(row_, peaks[top_k - 1]);
      if (limit != limit) limit = kInf;
    }
    return Least(limit, false, static_cast<double>(top_k));
  }

  // The least distance up to `limit` within which there are `wanted` logits; or, to weigh them, within which is that
  // share of the probability that is within the limit. The distances are not sorted, but counted in finer and finer bins.
  float Least(float limit, bool weigh, double wanted) const {
    std::vector<SampleBins> bins(Parts());
    ForParts([&](int64_t part, int64_t begin, int64_t end) { kernels_.fill(row_, begin, end, limit, weigh, bins[part]); });
    std::vector<double> sums(SampleBins::kCount);
    std::vector<int64_t> counts(SampleBins::kCount);
    for (const SampleBins& part : bins) {
      for (int i = 0; i < SampleBins::kCount; ++i) {
        sums[i] += weigh ? part.weights[i] : part.counts[i];
        counts[i] += part.counts[i];
      }
    }
    if (weigh) {
      double total = 0;
      for (double sum : sums) total += sum;
      wanted *= total;
    }
    double before = 0;
    const size_t bin = Find(sums, counts, wanted, before);
    if (bin == counts.size()) return limit;
    constexpr uint32_t kEnd = 0x7f800001u;  // above infinity
    uint32_t low = SampleBins::kFirst + (static_cast<uint32_t>(bin) << SampleBins::kShift);
    uint32_t high = low + (1u << SampleBins::kShift);
    if (bin == 0) low = 0;
    if (bin == SampleBins::kCount - 1) high = kEnd;
    high = std::min(high, Bits(limit) + 1);
    std::vector<float> found(counts[bin]);
    std::vector<int64_t> offsets(Parts());
    for (int64_t part = 1; part < Parts(); ++part) offsets[part] = offsets[part - 1] + bins[part - 1].counts[bin];
    ForParts([&](int64_t part, int64_t begin, int64_t end) {
      if (bins[part].counts[bin] == 0) return;
      kernels_.gather(row_, begin, end, FromBits(low), FromBits(high - 1), found.data() + offsets[part]);
    });
    return Refine(std::move(found), low, high, weigh, wanted - before);
  }

  // The bin in which the sum from the first bin on reaches `wanted`, else the last that is not empty, and what is before
  // it; sums.size() if all are empty.
  static size_t Find(const std::vector<double>& sums, const std::vector<int64_t>& counts, double wanted, double& before) {
    size_t found = sums.size();
    double sum = 0;
    for (size_t i = 0; i < sums.size(); ++i) {
      if (counts[i] == 0) continue;
      found = i, before = sum, sum += sums[i];
      if (sum >= wanted) break;
    }
    return found;
  }

  // The least of the distances, whose bits are from low on and below high, within which the sum reaches `wanted`.
  float Refine(std::vector<float> distances, uint32_t low, uint32_t high, bool weigh, double wanted) const {
    constexpr uint32_t kBins = 1024;
    std::vector<float> weights(distances.size(), 1.f);
    if (weigh) kernels_.weights(distances.data(), static_cast<int64_t>(distances.size()), weights.data());
    while (high - low > 1) {
      int shift = 0;
      while ((high - 1 - low) >> shift >= kBins) ++shift;
      std::vector<double> sums(kBins);
      std::vector<int64_t> counts(kBins);
      for (size_t i = 0; i < distances.size(); ++i) {
        const uint32_t bin = (Bits(distances[i]) - low) >> shift;
        sums[bin] += weights[i], ++counts[bin];
      }
      double before = 0;
      const uint32_t bin = static_cast<uint32_t>(Find(sums, counts, wanted, before));
      wanted -= before;
      low += bin << shift;
      high = std::min(high, low + (1u << shift));
      size_t kept = 0;
      for (size_t i = 0; i < distances.size(); ++i) {
        if (Bits(distances[i]) - low >= high - low) continue;
        distances[kept] = distances[i], weights[kept++] = weights[i];
      }
      distances.resize(kept), weights.resize(kept);
    }
    return FromBits(low);
  }

  int32_t Draw(float limit) const {
    constexpr uint32_t kDerive = 0xffffffffu;  // fold_in of zml/ops/random.py
    const uint32_t seed[2] = {task_.seed[number_], 0};
    uint32_t key[2];
    kernels_.threefry(seed, static_cast<uint32_t>(task_.position[number_]), kDerive, key);
    std::vector<SampleBest> best(Parts(), SampleBest{-kInf, 0});
    ForParts([&](int64_t part, int64_t begin, int64_t end) { kernels_.draw(row_, begin, end, limit, key, best[part]); });
    SampleBest found = best[0];
    for (const SampleBest& part : best) {
      if (part.score > found.score) found = part;
    }
    return static_cast<int32_t>(found.token);
  }

  const SampleKernels& kernels_;
  const SampleTask& task_;
  const int64_t number_;
  const Run& run_;
  const float* logits_;
  std::unique_ptr<float[]> penalized_, peaks_;
  SampleRow row_{};
};

}  // namespace

void RunSample(const SampleKernels& kernels, const SampleTask& task, Pool& pool) {
  const size_t workers = Workers(pool), rows = static_cast<size_t>(task.rows);
  const auto sample = [&](size_t row, const Run& run) {
    task.tokens[row] = Sampler(kernels, task, static_cast<int64_t>(row), run).Token();
  };
  if (rows >= workers) {
    const Run alone = [](int64_t parts, const std::function<void(int64_t)>& body) {
      for (int64_t part = 0; part < parts; ++part) body(part);
    };
    Parallel(pool, workers, rows, [&](size_t row, size_t) { sample(row, alone); });
    return;
  }
  const Run divided = [&](int64_t parts, const std::function<void(int64_t)>& body) {
    Parallel(pool, workers, static_cast<size_t>(parts), [&](size_t part, size_t) { body(static_cast<int64_t>(part)); });
  };
  for (size_t row = 0; row < rows; ++row) sample(row, divided);
}

}  // namespace zml::cpu
