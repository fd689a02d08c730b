// Attention's parts: how the work is divided, which must not depend on the number of threads.

#include "zml/kernels/cpu/native/attention.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "zml/kernels/cpu/native/parallel.h"

namespace zml::cpu {
namespace {

// Up to so many queries are done key by key.
constexpr int64_t kFewQueries = 6;
// The keys of a part of few queries: few enough for many processors, where there are many keys so many that its start, which
// nothing was fetched ahead for, and its sums are little beside them.
constexpr int64_t kDecodeKeys = 256, kMostDecodeKeys = 1024, kDecodeParts = 16;
// Parts of many queries have about as many floats of queries, and at least so many keys where the keys are divided too,
// which they are to have so many parts.
constexpr int64_t kPrefillFloats = 32768, kPrefillKeys = 1024, kPrefillParts = 64;

struct Unaligned {
  void operator()(float* x) const { ::operator delete(x, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float[], Unaligned>;

Floats Allocate(size_t count) {
  return Floats(static_cast<float*>(::operator new(std::max<size_t>(count, 1) * sizeof(float), std::align_val_t{64})));
}

// Queries of a sequence whose parts, for a head of keys, have a range of keys each.
struct Unit {
  int64_t sequence, query, queries;
  KeyRange keys;
  int64_t part_keys, parts;
  // Of the first head's first part: its number, and that of its rows among those that are combined.
  int64_t first, row;
};

std::vector<Unit> Divide(const AttentionTask& task, bool few) {
  int64_t block = task.queries;
  if (!few) {
    const int64_t rows = std::clamp<int64_t>(kPrefillFloats / std::max<int64_t>(task.dim, 1), 64, 512);
    block = std::clamp<int64_t>(rows / task.group(), 1, task.queries);
  }
  const int64_t blocks = (task.queries + block - 1) / block, whole = blocks * task.batch * task.kv_heads;
  const int64_t ranges = (kPrefillParts + whole - 1) / whole;
  std::vector<Unit> units;
  // The last queries see most: first, so that what is left at the end is small.
  for (int64_t i = blocks; i-- > 0;) {
    for (int64_t sequence = 0; sequence < task.batch; ++sequence) {
      Unit unit{};
      unit.sequence = sequence;
      unit.query = i * block;
      unit.queries = std::min(block, task.queries - unit.query);
      unit.keys = {Visible(task, sequence, unit.query).begin, Visible(task, sequence, unit.query + unit.queries - 1).end};
      // The first may see nothing, and say so by a range that ends, and begins, anywhere.
      unit.keys.begin = std::min(unit.keys.begin, unit.keys.end);
      const int64_t count = unit.keys.end - unit.keys.begin;
      unit.part_keys = few ? std::clamp(count / kDecodeParts / kDecodeKeys * kDecodeKeys, kDecodeKeys, kMostDecodeKeys)
                           : std::max(kPrefillKeys, (count / ranges + 127) / 128 * 128);
      const int64_t from = unit.keys.begin / unit.part_keys, to = (unit.keys.end + unit.part_keys - 1) / unit.part_keys;
      unit.parts = std::max<int64_t>(to - from, 1);
      if (!units.empty()) {
        const Unit& last = units.back();
        const int64_t parts = last.parts * task.kv_heads;
        unit.first = last.first + parts;
        unit.row = last.row + (last.parts > 1 ? parts * last.queries * task.group() : 0);
      }
      units.push_back(unit);
    }
  }
  return units;
}

}  // namespace

void RunAttention(const AttentionKernels& kernels, const AttentionTask& task, Pool& pool) {
  if (task.batch == 0 || task.queries == 0 || task.heads == 0 || task.value_dim == 0) return;
  const bool few = task.queries <= kFewQueries;
  const std::vector<Unit> units = Divide(task, few);
  int64_t queries = 0;
  for (const Unit& unit : units) queries = std::max(queries, unit.queries);
  const Unit& last = units.back();
  const int64_t parts = last.first + last.parts * task.kv_heads, group = task.group();
  const int64_t rows = last.row + (last.parts > 1 ? last.parts * task.kv_heads * last.queries * group : 0);
  const size_t workers = std::min<size_t>(Workers(pool), static_cast<size_t>(parts));
  const int64_t scratch_size = (few ? kernels.decode_scratch : kernels.prefill_scratch)(task, queries);
  const Floats scratch = Allocate(workers * scratch_size), sums = Allocate(rows * task.value_dim), stats = Allocate(rows * 2);
  // How many parts of a unit's head are done; the last one combines them.
  const std::unique_ptr<std::atomic<int64_t>[]> done(new std::atomic<int64_t>[units.size() * task.kv_heads]());

  Parallel(pool, workers, static_cast<size_t>(parts), [&](size_t number, size_t worker) {
    const auto after = std::upper_bound(units.begin(), units.end(), static_cast<int64_t>(number),
                                        [](int64_t x, const Unit& unit) { return x < unit.first; });
    const Unit& unit = *(after - 1);
    const int64_t head = (number - unit.first) / unit.parts, range = (number - unit.first) % unit.parts;
    const int64_t from = unit.keys.begin / unit.part_keys + range;
    AttentionPart part{unit.sequence, head, unit.query, unit.queries,
                       {std::max(unit.keys.begin, from * unit.part_keys),
                        std::min(unit.keys.end, (from + 1) * unit.part_keys)},
                       nullptr, nullptr};
    float* own = scratch.get() + worker * scratch_size;
    const int64_t part_rows = unit.queries * group, first = unit.row + head * unit.parts * part_rows;
    const auto place = [&](int64_t i) {
      part.sums = sums.get() + (first + i * part_rows) * task.value_dim;
      part.stats = stats.get() + (first + i * part_rows) * 2;
    };
    if (unit.parts > 1) place(range);
    (few ? kernels.decode : kernels.prefill)(task, part, own);
    if (unit.parts > 1) {
      const size_t counter = static_cast<size_t>(&unit - units.data()) * task.kv_heads + head;
      if (done[counter].fetch_add(1, std::memory_order_acq_rel) + 1 == unit.parts) {
        place(0);
        kernels.combine(task, part, unit.parts, own);
      }
    }
  });
}

}  // namespace zml::cpu
