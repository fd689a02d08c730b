// Sampling: the task that the handler gets from XLA, and the kernels that do a part of it.
#pragma once

#include "zml/kernels/cpu/native/kernels.h"

namespace zml::cpu {

class Pool;

// A token for each row, as sample() in zml/nn/sampling.py says. The parameters are [rows].
struct SampleTask {
  int64_t rows, count;
  const float* logits;       // [rows, count]
  const bool* prompt;        // [rows, count], and null without penalties
  const int32_t* generated;  // the same
  const float *temperature, *top_p, *min_p, *repetition, *presence, *frequency;
  const int32_t* top_k;
  const uint32_t* seed;
  const int32_t* position;
  int32_t* tokens;
};

// The logits of a block of a row have one peak, which says whether they need to be looked at.
constexpr int64_t kSampleBlock = 64;

// A row that is drawn from.
struct SampleRow {
  const float* logits;
  int64_t count;
  const float* peaks;  // the greatest logit of each block
  float largest, temperature;
};

// How far a logit, or a vector of them, is from the largest. The only formula for it: what is kept must not depend on who
// computes it. Never -0, which has the bits of a large number.
template <class T>
static inline __attribute__((always_inline)) T Distance(const SampleRow& row, T logit) {
  return (row.largest - logit) / row.temperature + 0.f;
}

// Distances in the order of their bits: 64 bins an octave from 2^-12 to 2^12; the first and the last have the rest.
struct SampleBins {
  static constexpr int32_t kCount = 24 * 64, kShift = 17, kFirst = (127 - 12) << 23;
  double weights[kCount];
  int32_t counts[kCount];
};

struct SampleBest {
  float score;
  int64_t token;
};

// Of a row, all but the first two take the blocks from `begin` to `end`, and of them the logits within a distance.
struct SampleKernels {
  // out [count] = logits with the penalties on what was seen.
  void (*penalize)(const float* logits, const bool* prompt, const int32_t* generated, int64_t count, float repetition,
                   float presence, float frequency, float* out);
  // The greatest of each block of logits [count], NaN where one is NaN.
  void (*peaks)(const float* logits, int64_t count, float* out);
  // Adds to the bins how many there are; with `weigh` also the sums of exp(-distance).
  void (*fill)(const SampleRow& row, int64_t begin, int64_t end, float limit, bool weigh, SampleBins& bins);
  // Appends the distances from `least` to `limit`, both included, to out.
  float* (*gather)(const SampleRow& row, int64_t begin, int64_t end, float least, float limit, float* out);
  // out [count] = exp(-distance).
  void (*weights)(const float* distances, int64_t count, float* out);
  // Replaces `best` where noise - distance is more than its score, or as much for an earlier token. `key` and the
  // number of the token are Threefry's key and counter.
  void (*draw)(const SampleRow& row, int64_t begin, int64_t end, float limit, const uint32_t* key, SampleBest& best);
  // Threefry-2x32-20: the two words of a block, as zml/ops/random.py has them.
  void (*threefry)(const uint32_t* key, uint32_t counter, uint32_t draw, uint32_t* words);
};

// The whole task, on this thread and those of the pool. The result is the same for any number of threads.
void RunSample(const SampleKernels& kernels, const SampleTask& task, Pool& pool);

}  // namespace zml::cpu
