#include "zml/kernels/cpu/native/parallel.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace zml::cpu {
namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Parts that follow one another, of which one worker takes the next until there are none.
struct alignas(64) Range {
  std::atomic<size_t> next{0};
  size_t end = 0;
};

// What all threads of one call share. Tasks that start when the work is over find it here all the same, so it is
// theirs too.
struct Job {
  const std::function<void(size_t, size_t)>* body;
  size_t parts;
  std::vector<Range> ranges;  // one for each worker
  std::atomic<size_t> done{0};
  std::atomic<size_t> workers{1};

  Job(const std::function<void(size_t, size_t)>& body, size_t parts, size_t workers)
      : body(&body), parts(parts), ranges(workers) {
    for (size_t i = 0; i < workers; ++i) {
      ranges[i].next = i * parts / workers;
      ranges[i].end = (i + 1) * parts / workers;
    }
  }

  // Its own range, so that it reads memory in order, then what others have left.
  void Work(size_t worker) {
    size_t finished = 0;
    for (size_t i = 0; i < ranges.size(); ++i) {
      Range& range = ranges[(worker + i) % ranges.size()];
      if (range.next.load(std::memory_order_relaxed) >= range.end) continue;
      for (size_t part; (part = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end; ++finished) {
        (*body)(part, worker);
      }
    }
    // The release gives the caller what the parts have written.
    if (finished != 0) done.fetch_add(finished, std::memory_order_release);
  }
};

#if defined(__linux__)
// The quota of one file of a control group, in processors; 0: none.
double Quota(const std::string& folder, bool unified) {
  double quota = -1, period = 0;
  if (unified) {
    if (std::FILE* file = std::fopen((folder + "/cpu.max").c_str(), "r")) {
      if (std::fscanf(file, "%lf %lf", &quota, &period) != 2) quota = -1;  // "max 100000"
      std::fclose(file);
    }
  } else {
    for (auto [name, into] : {std::pair{"/cpu.cfs_quota_us", &quota}, std::pair{"/cpu.cfs_period_us", &period}}) {
      if (std::FILE* file = std::fopen((folder + name).c_str(), "r")) {
        if (std::fscanf(file, "%lf", into) != 1) *into = -1;
        std::fclose(file);
      }
    }
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// The smallest quota of this process's group and those above it.
double SmallestQuota() {
  double smallest = 0;
  std::FILE* file = std::fopen("/proc/self/cgroup", "r");
  if (file == nullptr) return 0;
  char line[4096];
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    line[std::strcspn(line, "\n")] = '\0';
    // "0::/path" for version 2, "4:cpu,cpuacct:/path" for version 1.
    char* controllers = std::strchr(line, ':');
    char* path = controllers == nullptr ? nullptr : std::strchr(controllers + 1, ':');
    if (path == nullptr) continue;
    *path++ = '\0';
    const std::string names = std::string(",") + (controllers + 1) + ",";
    const bool unified = names == ",,";
    if (!unified && names.find(",cpu,") == std::string::npos) continue;
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    // In a container the path may be the host's, and only the root be there.
    for (std::string group = path;; group = group.substr(0, group.rfind('/'))) {
      const double quota = Quota(root + (group == "/" ? "" : group), unified);
      if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
      if (group.empty() || group == "/") break;
    }
  }
  std::fclose(file);
  return smallest;
}
#endif

}  // namespace

size_t AvailableProcessors() {
  static const size_t count = [] {
    size_t processors = std::thread::hardware_concurrency();
#if defined(__linux__)
    // A set that is too small for the machine makes the call fail; grow it.
    for (size_t size = 1024; size <= (1 << 20); size *= 2) {
      cpu_set_t* set = CPU_ALLOC(size);
      if (set == nullptr) break;
      const size_t bytes = CPU_ALLOC_SIZE(size);
      const bool known = sched_getaffinity(0, bytes, set) == 0;
      if (known) processors = static_cast<size_t>(CPU_COUNT_S(bytes, set));
      CPU_FREE(set);
      if (known) break;
    }
    if (const double quota = SmallestQuota(); quota > 0) {
      const size_t whole = static_cast<size_t>(quota) + (quota > static_cast<double>(static_cast<size_t>(quota)));
      if (whole < processors) processors = whole;
    }
#endif
    return processors < 1 ? size_t{1} : processors;
  }();
  return count;
}

size_t Workers(const Pool& pool) {
  const size_t processors = AvailableProcessors(), threads = pool.threads() + 1;
  return threads < processors ? threads : processors;
}

void Parallel(Pool& pool, size_t workers, size_t parts, const std::function<void(size_t, size_t)>& body) {
  if (parts < workers) workers = parts;
  if (workers <= 1) {
    for (size_t part = 0; part < parts; ++part) body(part, 0);
    return;
  }
  auto job = std::make_shared<Job>(body, parts, workers);
  for (size_t i = 1; i < workers; ++i) {
    // One that starts late must not touch the body, which is gone by then; nor does it: there is no part left.
    pool.Schedule([job] { job->Work(job->workers.fetch_add(1, std::memory_order_relaxed)); });
  }
  job->Work(0);
  // What is left is at most a part for each of the others: too short to sleep, unless one of them has lost its processor.
  for (size_t spins = 0; job->done.load(std::memory_order_acquire) < parts; ++spins) {
    if (spins < 20000) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace zml::cpu
