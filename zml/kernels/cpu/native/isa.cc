#include "zml/kernels/cpu/native/isa.h"

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace zml::cpu {

// One for each library of kernels that BUILD.bazel makes for this processor.
#if defined(__x86_64__)
extern const Kernels kKernels_avx512_bf16, kKernels_avx512, kKernels_avx2;
#elif defined(__aarch64__)
extern const Kernels kKernels_neon_bf16, kKernels_neon_dot, kKernels_neon;
#endif
extern const Kernels kKernels_portable;

namespace {

struct Isa {
  const Kernels* kernels;
  bool available;
};

#if defined(__x86_64__)
// What the processor has and the operating system saves. (__builtin_cpu_supports is always false with zig's runtime.)
struct Features {
  bool avx2 = false, avx512 = false, avx512_bf16 = false;
};

Features Detect() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return {};
  const unsigned f16c = 1u << 29, fma = 1u << 12, osxsave = 1u << 27;
  if ((c & (f16c | fma | osxsave)) != (f16c | fma | osxsave)) return {};
  unsigned saved, high;
  asm("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned kYmm = 0x6, kZmm = 0xe6;
  unsigned b7, c7;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return {};
  Features found;
  const unsigned avx2 = 1u << 5, bmi1 = 1u << 3, bmi2 = 1u << 8;
  found.avx2 = (b7 & (avx2 | bmi1 | bmi2)) == (avx2 | bmi1 | bmi2) && (saved & kYmm) == kYmm;
  const unsigned f = 1u << 16, dq = 1u << 17, cd = 1u << 28, bw = 1u << 30, vl = 1u << 31;
  const unsigned avx512 = f | dq | cd | bw | vl, vnni = 1u << 11;
  found.avx512 = found.avx2 && (b7 & avx512) == avx512 && (saved & kZmm) == kZmm;
  unsigned a71;
  if (__get_cpuid_count(7, 1, &a71, &b, &c, &d)) {
    found.avx512_bf16 = found.avx512 && (c7 & vnni) != 0 && (a71 & (1u << 5)) != 0;
  }
  return found;
}
#endif

#if defined(__aarch64__)
bool Has(const char* darwin, unsigned long capability, bool second = false) {
#if defined(__linux__)
  return (getauxval(second ? AT_HWCAP2 : AT_HWCAP) & capability) == capability;
#else
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(darwin, &value, &size, nullptr, 0) == 0 && value != 0;
#endif
}
#if !defined(__linux__)
constexpr unsigned long HWCAP_ASIMDDP = 0, HWCAP2_I8MM = 0, HWCAP2_BF16 = 0;
#endif
#endif

// Best first.
const Isa* Isas() {
#if defined(__x86_64__)
  static const Features found = Detect();
  static const Isa isas[] = {
      {&kKernels_avx512_bf16, found.avx512_bf16},
      {&kKernels_avx512, found.avx512},
      {&kKernels_avx2, found.avx2},
      {&kKernels_portable, true},
      {nullptr, false}};
#elif defined(__aarch64__)
  static const bool dot = Has("hw.optional.arm.FEAT_DotProd", HWCAP_ASIMDDP);
  static const bool bf16 = dot && Has("hw.optional.arm.FEAT_BF16", HWCAP2_BF16, true) &&
                           Has("hw.optional.arm.FEAT_I8MM", HWCAP2_I8MM, true);
  static const Isa isas[] = {
      {&kKernels_neon_bf16, bf16}, {&kKernels_neon_dot, dot}, {&kKernels_neon, true}, {&kKernels_portable, true},
      {nullptr, false}};
#else
  static const Isa isas[] = {{&kKernels_portable, true}, {nullptr, false}};
#endif
  return isas;
}

struct Choice {
  const Kernels* kernels = nullptr;
  std::string error;
};

Choice Choose() {
  const char* forced = std::getenv("ZML_CPU_ISA");
  std::string names;
  for (const Isa* isa = Isas(); isa->kernels != nullptr; ++isa) {
    if (!isa->available) {
      if (forced != nullptr && std::string(forced) == isa->kernels->name) {
        return {nullptr, std::string("ZML_CPU_ISA=") + forced + ": this processor does not have it"};
      }
      continue;
    }
    if (forced == nullptr || *forced == '\0' || std::string(forced) == isa->kernels->name) return {isa->kernels, ""};
    names += (names.empty() ? "" : ", ") + std::string(isa->kernels->name);
  }
  return {nullptr, std::string("ZML_CPU_ISA=") + forced + " is unknown; this processor has " + names};
}

const Choice& Chosen() {
  static const Choice choice = Choose();
  return choice;
}

}  // namespace

const Kernels* ActiveKernels() { return Chosen().kernels; }

const char* IsaError() { return Chosen().error.c_str(); }

const Kernels* const* AvailableKernels() {
  static const Kernels* found[8] = {};
  static const bool filled = [] {
    int count = 0;
    for (const Isa* isa = Isas(); isa->kernels != nullptr; ++isa) {
      if (isa->available) found[count++] = isa->kernels;
    }
    return true;
  }();
  (void)filled;
  return found;
}

}  // namespace zml::cpu
