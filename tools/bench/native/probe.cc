// What this machine can do at most: how fast all threads together read memory, and how many floating-point operations
// a second their vector units retire. Loaded with ctypes by tools/bench/limits.py.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <sys/mman.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

namespace {

// Threads wait for one another by spinning: a pass takes milliseconds, and waking a thread would show in it.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}

  void Wait() {
    const int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins > 10000) std::this_thread::yield();
    }
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs body(thread) on so many threads, this one included.
template <typename Body>
void OnThreads(int threads, const Body& body) {
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(body, i);
  body(0);
  for (std::thread& other : others) other.join();
}

#if defined(__x86_64__)
// What the processor has and the operating system saves; __builtin_cpu_supports is always false with zig's runtime.
struct Features {
  bool avx2 = false, avx512 = false, avx512_bf16 = false;
};

Features Detect() {
  unsigned a, b, c, d, c1, b7;
  if (!__get_cpuid(1, &a, &b, &c1, &d) || !__get_cpuid_count(7, 0, &a, &b7, &c, &d)) return {};
  constexpr unsigned kFma = 1u << 12, kSaves = 1u << 27, kAvx2 = 1u << 5, kAvx512f = 1u << 16;
  if (!(c1 & kSaves)) return {};
  unsigned saved, high;
  asm("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned kYmm = 0x06, kZmm = 0xe6;
  Features found;
  found.avx2 = (saved & kYmm) == kYmm && (c1 & kFma) && (b7 & kAvx2);
  found.avx512 = found.avx2 && (saved & kZmm) == kZmm && (b7 & kAvx512f);
  found.avx512_bf16 = found.avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
  return found;
}
#endif

void CopyName(const char* name, char* to, size_t size) {
  std::strncpy(to, name, size - 1);
  to[size - 1] = 0;
}

// ---- Reading ----

// 64 bytes, a cache line; a compiler splits it where registers are narrower.
typedef uint64_t Line __attribute__((vector_size(64), aligned(64)));

constexpr int kSums = 4;
constexpr size_t kPage = 4096;
constexpr size_t kBlock = kSums * kPage;
constexpr size_t kHuge = size_t{2} << 20;

// The sum of all lines, in sums that do not wait for one another. The lines are taken in order, or from four pages side
// by side, which keeps more prefetchers busy. kAhead: bytes that are asked for in advance. `bytes` is a multiple of kBlock.
template <bool kFourPages, size_t kAhead>
inline __attribute__((always_inline)) uint64_t ReadAll(const char* data, size_t bytes) {
  Line sums[kSums] = {};
  for (const char* block = data; block < data + bytes; block += kBlock) {
    for (size_t i = 0; i < kPage / sizeof(Line); ++i) {
      for (size_t k = 0; k < kSums; ++k) {
        const char* line = block + (kFourPages ? k * kPage + i * sizeof(Line) : (i * kSums + k) * sizeof(Line));
        if (kAhead) __builtin_prefetch(line + kAhead, 0, 0);
        sums[k] += *reinterpret_cast<const Line*>(line);
      }
    }
  }
  const Line sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  uint64_t total = 0;
  for (size_t i = 0; i < sizeof(Line) / sizeof(uint64_t); ++i) total += sum[i];
  return total;
}

struct Reader {
  const char* name;
  uint64_t (*read)(const char*, size_t);
};

// clang-format off
#define READERS(prefix, attribute)                                                                               \
  attribute uint64_t prefix##Order(const char* data, size_t bytes) { return ReadAll<false, 0>(data, bytes); }      \
  attribute uint64_t prefix##OrderAhead(const char* data, size_t bytes) { return ReadAll<false, 2048>(data, bytes); } \
  attribute uint64_t prefix##Pages(const char* data, size_t bytes) { return ReadAll<true, 0>(data, bytes); }       \
  attribute uint64_t prefix##PagesAhead(const char* data, size_t bytes) { return ReadAll<true, 512>(data, bytes); }
#define LIST(prefix, text)                                                                      \
  {text ", in order", prefix##Order}, {text ", in order, prefetched", prefix##OrderAhead},     \
  {text ", four pages", prefix##Pages}, {text ", four pages, prefetched", prefix##PagesAhead}
// clang-format on

READERS(Plain, )
#if defined(__x86_64__)
READERS(Avx2, __attribute__((target("avx2"))))
READERS(Avx512, __attribute__((target("avx512f"))))
#endif

// Those that run here; which is fastest differs between machines.
std::vector<Reader> Readers() {
#if defined(__x86_64__)
  const Features features = Detect();
  if (features.avx512) return {LIST(Avx512, "avx512f"), LIST(Avx2, "avx2")};
  if (features.avx2) return {LIST(Avx2, "avx2")};
#endif
  return {LIST(Plain, "baseline")};
}

// To the compiler this reads the value, so what it comes from is computed.
template <typename Value>
inline __attribute__((always_inline)) void Keep(const Value& value) {
  asm volatile("" : : "m"(value) : "memory");
}

// Memory of whole huge pages, where the system has them; null where there is none.
char* Map(size_t bytes) {
  void* mapped = mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* memory = static_cast<char*>(mapped);
  char* data = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + kHuge - 1) / kHuge * kHuge);
  if (data != memory) munmap(memory, data - memory);
  munmap(data + bytes, memory + kHuge - data);
#if defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

// All threads read together, each a part of so many bytes, in the way that was fastest when it was first called.
void TimeReading(const char* data, size_t part, int threads, int passes, double* seconds, char* name, size_t name_size) {
  static int chosen = -1;
  constexpr int kTrials = 3;
  const std::vector<Reader> readers = Readers();
  std::vector<double> best(readers.size(), 1e9);
  const bool choose = chosen < 0;
  Barrier barrier(threads);
  OnThreads(threads, [&](int thread) {
    const auto pass = [&](const Reader& reader) {
      barrier.Wait();
      const double began = Now();
      const uint64_t sum = reader.read(data + thread * part, part);
      Keep(sum);
      barrier.Wait();
      return Now() - began;
    };
    for (int trial = 0; choose && trial < kTrials; ++trial) {
      for (size_t i = 0; i < readers.size(); ++i) {
        const double time = pass(readers[i]);
        if (thread == 0) best[i] = std::min(best[i], time);
      }
    }
    if (choose && thread == 0) {
      chosen = static_cast<int>(std::min_element(best.begin(), best.end()) - best.begin());
    }
    barrier.Wait();
    for (int i = 0; i < passes; ++i) {
      const double time = pass(readers[chosen]);
      if (thread == 0) seconds[i] = time;
    }
  });
  CopyName(readers[chosen].name, name, name_size);
}

// ---- Computing ----

// Counts that the compiler cannot know, so that it keeps the work.
volatile float kFactor = 0.999999f;
volatile float kTerm = 1e-7f;

// Independent sums: more than latency (4-5 cycles) times units (2, 4 on Apple's and Arm's large cores) of any machine
// in use, and no more than fit the registers with the two operands.
#define FMA_LOOP(Vector, set1, fma, count)                                 \
  const Vector a = set1(kFactor), b = set1(kTerm);                         \
  Vector sums[count];                                                     \
  for (int k = 0; k < count; ++k) sums[k] = set1(static_cast<float>(k));  \
  for (int64_t i = 0; i < rounds; ++i) {                                  \
    for (int k = 0; k < count; ++k) sums[k] = fma;                        \
  }                                                                       \
  Keep(sums);

struct Computer {
  const char* name;
  void (*run)(int64_t rounds);
  double flops;  // of one round
};

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void FmaAvx2(int64_t rounds) {
  FMA_LOOP(__m256, _mm256_set1_ps, _mm256_fmadd_ps(sums[k], a, b), 12)
}

__attribute__((target("avx512f"))) void FmaAvx512(int64_t rounds) {
  FMA_LOOP(__m512, _mm512_set1_ps, _mm512_fmadd_ps(sums[k], a, b), 16)
}

// Pairs of bfloat16 products onto float32 sums. The operands' bits are those of a float, twice a small bfloat16.
__attribute__((target("avx512f,avx512bf16"))) void DotAvx512(int64_t rounds) {
  FMA_LOOP(__m512, _mm512_set1_ps,
           _mm512_dpbf16_ps(sums[k], reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)), 16)
}
#elif defined(__aarch64__)
void FmaNeon(int64_t rounds) {
  FMA_LOOP(float32x4_t, vdupq_n_f32, vfmaq_f32(sums[k], a, b), 24)
}

// 2x4 times 4x2: 16 products of bfloat16.
__attribute__((target("bf16"))) void MatrixNeon(int64_t rounds) {
  FMA_LOOP(float32x4_t, vdupq_n_f32,
           vbfmmlaq_f32(sums[k], vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b)), 24)
}

bool HasBf16() {
#if defined(__linux__)
  return getauxval(AT_HWCAP2) & (1 << 14);  // HWCAP2_BF16
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof(has);
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has;
#else
  return false;
#endif
}
#endif

typedef float Quad __attribute__((vector_size(16)));

void MultiplyAddPlain(int64_t rounds) {
  const auto set1 = [](float x) { return Quad{x, x, x, x}; };
  FMA_LOOP(Quad, set1, sums[k] * a + b, 12)
}

Computer ComputerOf(const std::string& type) {
#if defined(__x86_64__)
  const Features features = Detect();
  if (type == "bf16" && features.avx512_bf16) return {"avx512bf16 vdpbf16ps", DotAvx512, 16 * 16 * 4};
  if (type == "f32" && features.avx512) return {"avx512f fma", FmaAvx512, 16 * 16 * 2};
  if (type == "f32" && features.avx2) return {"avx2 fma", FmaAvx2, 12 * 8 * 2};
#elif defined(__aarch64__)
  if (type == "bf16" && HasBf16()) return {"neon bfmmla", MatrixNeon, 24 * 16 * 2};
  if (type == "f32") return {"neon fmla", FmaNeon, 24 * 4 * 2};
#endif
  if (type == "f32") return {"baseline multiply and add", MultiplyAddPlain, 12 * 4 * 2};
  return {"", nullptr, 0};
}

}  // namespace

extern "C" {

// Reads a buffer of about `bytes` bytes `passes` times, each of `threads` threads its own part, in the way that is fastest
// here. Gives the seconds of each pass, the bytes of one, and the way's name in name[name_size]. 0, or 1 without memory.
int zml_probe_read(size_t bytes, int threads, int passes, double* seconds, size_t* pass_bytes, char* name,
                   size_t name_size) {
  // Kept from call to call: memory that is new to a process, or to a virtual machine, takes longer to get than to read.
  static char* data = nullptr;
  static size_t mapped = 0;
  const size_t part = std::max(kHuge, bytes / threads / kHuge * kHuge);
  *pass_bytes = part * threads;
  if (mapped != *pass_bytes) {
    if (data != nullptr) munmap(data, mapped);
    mapped = 0;
    data = Map(*pass_bytes);
    if (data == nullptr) return 1;
    mapped = *pass_bytes;
    // The thread that reads a page is the one that touches it first, so it lies in the memory nearest to it.
    OnThreads(threads, [&](int thread) { std::memset(data + thread * part, thread + 1, part); });
  }
  TimeReading(data, part, threads, passes, seconds, name, name_size);
  return 0;
}

// Multiplies and adds in `type` (f32; bf16: products of bfloat16 onto float32 sums) on all threads for about `pass_seconds` a
// pass. Gives GFLOP/s of each pass, and the instruction in name[name_size]. 0, or 1 where there is none for the type.
int zml_probe_peak(const char* type, int threads, int passes, double pass_seconds, double* gflops, char* name,
                   size_t name_size) {
  const Computer computer = ComputerOf(type);
  if (!computer.run) return 1;
  int64_t rounds = 1 << 16;
  double time = 0;
  for (;; rounds *= 2) {
    const double began = Now();
    computer.run(rounds);
    time = Now() - began;
    if (time > 0.02) break;
  }
  rounds = std::max<int64_t>(1, static_cast<int64_t>(rounds * pass_seconds / time));
  Barrier barrier(threads);
  OnThreads(threads, [&](int thread) {
    for (int i = 0; i < passes; ++i) {
      barrier.Wait();
      const double began = Now();
      computer.run(rounds);
      barrier.Wait();
      if (thread == 0) gflops[i] = computer.flops * rounds * threads / (Now() - began) / 1e9;
    }
  });
  CopyName(computer.name, name, name_size);
  return 0;
}

}  // extern "C"
