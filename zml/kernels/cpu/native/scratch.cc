#include "zml/kernels/cpu/native/scratch.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace zml::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

struct Kept {
  std::mutex mutex;
  std::vector<std::pair<char*, size_t>> blocks;
};

// Never destroyed: a pool's threads may outlive the statics.
Kept& TheKept() {
  static Kept* kept = new Kept;
  return *kept;
}

}  // namespace

Scratch::Scratch(size_t bytes) : data_(nullptr), size_(0) {
  Kept& kept = TheKept();
  {
    // The smallest that is large enough; failing that, the largest goes, so that it does not stay beside the new one.
    std::lock_guard<std::mutex> lock(kept.mutex);
    auto best = kept.blocks.end();
    for (auto block = kept.blocks.begin(); block != kept.blocks.end(); ++block) {
      if (best == kept.blocks.end() || (best->second < bytes ? block->second > best->second
                                                             : block->second >= bytes && block->second < best->second)) {
        best = block;
      }
    }
    if (best != kept.blocks.end()) {
      std::tie(data_, size_) = *best;
      kept.blocks.erase(best);
    }
  }
  if (size_ < bytes) {
    std::free(data_);
    size_ = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    void* data = nullptr;
    if (posix_memalign(&data, kHugePage, size_) != 0) throw std::bad_alloc();
#if defined(__linux__)
    madvise(data, size_, MADV_HUGEPAGE);
#endif
    data_ = static_cast<char*>(data);
  }
  next_ = data_;
}

Scratch::~Scratch() {
  if (data_ == nullptr) return;
  Kept& kept = TheKept();
  std::lock_guard<std::mutex> lock(kept.mutex);
  kept.blocks.emplace_back(data_, size_);
}

}  // namespace zml::cpu
