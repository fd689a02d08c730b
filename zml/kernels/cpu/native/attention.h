// Attention: the task that the handler gets from XLA, and the kernels that do a part of it.
#pragma once

#include "zml/kernels/cpu/native/kernels.h"

namespace zml::cpu {

class Pool;

// Steps in elements from one sequence, query or key, and head to the next. The elements of a head lie side by side.
struct AttentionStrides {
  int64_t batch, row, head;
};

// softmax(q.k) v for each sequence of a batch, query and head, as Attention.__call__ in zml/attention/api.py says.
struct AttentionTask {
  Type type;   // of q and out
  Type cache;  // of k and v
  const char* q;
  const char* k;
  const char* v;
  char* out;
  // heads is a multiple of kv_heads: those of a group, which follow one another, share one. dim is that of q and k,
  // value_dim that of v and out.
  int64_t batch, queries, heads, kv_heads, keys, dim, value_dim;
  AttentionStrides q_strides, k_strides, v_strides, out_strides;
  // For each sequence, the position of its first query, and how many keys are there.
  const int32_t* start;
  const int32_t* lengths;
  bool causal;
  int64_t window;  // 0: none
  float softcap;   // 0: none
  float scale;

  // Never a function of its own: see kernels.h.
  __attribute__((always_inline)) int64_t group() const { return heads / kv_heads; }
};

struct KeyRange {
  int64_t begin, end;
};

// The keys that a query sees: both ends grow with the query. (Internal to each source: see kernels.h.)
static inline __attribute__((always_inline)) KeyRange Visible(const AttentionTask& task, int64_t sequence, int64_t query) {
  const int64_t position = task.start[sequence] + query;
  int64_t end = task.lengths[sequence] < task.keys ? task.lengths[sequence] : task.keys;
  if (task.causal) {
    if (position + 1 < end) end = position + 1;
  } else if (task.window > 0 && position + task.window < end) {
    end = position + task.window;
  }
  int64_t begin = task.window > 0 ? position - task.window + 1 : 0;
  if (end < 0) end = 0;
  if (begin < 0) begin = 0;
  return {begin < end ? begin : end, end};
}

// A share of the work: queries of one sequence, the heads that share one of k and v, and a range of its keys. The rows are
// the queries, each with its heads one after the other.
struct AttentionPart {
  int64_t sequence, kv_head, query, queries;
  KeyRange keys;
  // Null: the part has all keys, and writes the result. Else its sums of weighted values [rows, value_dim], and for each
  // row the greatest score, in units of log 2, and the sum of the weights.
  float* sums;
  float* stats;
};

struct AttentionKernels {
  // The floats of scratch that a worker needs for a part of so many queries; it is aligned to 64 bytes.
  int64_t (*decode_scratch)(const AttentionTask& task, int64_t queries);
  int64_t (*prefill_scratch)(const AttentionTask& task, int64_t queries);
  // A part: key by key for few queries, so that each key is read once and that is all; block by block for many.
  void (*decode)(const AttentionTask& task, const AttentionPart& part, float* scratch);
  void (*prefill)(const AttentionTask& task, const AttentionPart& part, float* scratch);
  // Writes the result of parts [count] that differ in their keys, whose sums and stats follow one another.
  void (*combine)(const AttentionTask& task, const AttentionPart& first, int64_t count, float* scratch);
};

// The whole task, on this thread and those of the pool. The result is the same bits for any number of threads.
void RunAttention(const AttentionKernels& kernels, const AttentionTask& task, Pool& pool);

}  // namespace zml::cpu
