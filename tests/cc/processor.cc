// Compares the instruction sets of the processor with the arguments: NAME must be there, no-NAME must not.

#include <cstdio>
#include <map>
#include <string>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

std::map<std::string, bool> Features() {
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  return {
      {"neon", first & HWCAP_ASIMD},
      {"dotprod", first & HWCAP_ASIMDDP},
      {"sve", first & HWCAP_SVE},
      {"i8mm", second & HWCAP2_I8MM},
      {"bf16", second & HWCAP2_BF16},
  };
}
#elif defined(__x86_64__)
#include <cpuid.h>

std::map<std::string, bool> Features() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0, ebx7 = 0;
  __get_cpuid_count(7, 0, &eax, &ebx7, &ecx, &edx);
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  return {
      {"sse4_2", ecx & bit_SSE4_2}, {"avx", ecx & bit_AVX},       {"f16c", ecx & bit_F16C},
      {"fma", ecx & bit_FMA},       {"avx2", ebx7 & bit_AVX2},    {"avx512f", ebx7 & bit_AVX512F},
  };
}
#endif

int main(int argc, char** argv) {
  const std::map<std::string, bool> features = Features();
  int wrong = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool expected = argument.rfind("no-", 0) != 0;
    const auto found = features.find(expected ? argument : argument.substr(3));
    if (found != features.end() && found->second == expected) continue;
    std::printf("expected %s, found %s\n", argv[i], found == features.end() ? "no such name" : "the opposite");
    ++wrong;
  }
  return wrong || argc == 1;
}
