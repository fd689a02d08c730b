// Fork and join on whatever pool of threads there is.
#pragma once

#include <cstddef>
#include <functional>

namespace zml::cpu {

// A pool that runs tasks some time: XLA's own in a handler, threads of a test elsewhere.
class Pool {
 public:
  virtual ~Pool() = default;
  // How many of its threads may help.
  virtual size_t threads() const = 0;
  virtual void Schedule(std::function<void()> task) = 0;
};

// Threads that work pays for: the pool's and the caller, at most as many as the affinity mask and the control group's
// quota let run at once.
size_t Workers(const Pool& pool);

// The processors that this process may keep busy: of the affinity mask, and of the control group's quota rounded up.
size_t AvailableProcessors();

// Calls body(part, worker) for each part in [0, parts), on this thread and on those of the pool, and returns when all are
// done. Each worker, of those numbered 0 to workers - 1, has one part at a time: of a range of its own in order, then of
// the ranges of others who are not done. Make parts many enough to balance, and large enough to pay. The caller works
// too, so it ends even if the pool's threads are all busy for ever; body must not throw.
void Parallel(Pool& pool, size_t workers, size_t parts, const std::function<void(size_t part, size_t worker)>& body);

}  // namespace zml::cpu
