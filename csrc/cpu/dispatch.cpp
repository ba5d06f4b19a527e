// The choice of the instruction set.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

#ifdef MS_HAS_AVXVNNI
#include <cpuid.h>
#endif
#ifdef MS_HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ms {

#ifdef MS_HAS_AVXVNNI
// Leaf 7, 1: EAX bit 4. Not all compilers that know the instructions know their name here.
static bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}
#endif

#ifdef MS_HAS_AMX
// Leaf 7, 0: EDX bits 24 (tiles) and 25 (of 8-bit numbers). Linux gives a process the registers only when it asks for them;
// its threads have them too.
static bool has_amx() {
  constexpr unsigned kTilesOfInt8 = 3u << 24;
  constexpr long kAskFor = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTilesOfInt8) == kTilesOfInt8 &&
         syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
}
#endif

static std::vector<const Kernels*> available() {
  std::vector<const Kernels*> sets = {&kBaseline};
#ifdef MS_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(&kAvx2);
#ifdef MS_HAS_AVXVNNI
    if (has_avxvnni()) sets.push_back(&kAvxVnni);
#endif
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    sets.push_back(&kAvx512);
    if (__builtin_cpu_supports("avx512vnni")) {
      sets.push_back(&kAvx512Vnni);
#ifdef MS_HAS_AMX
      if (has_amx()) sets.push_back(&kAmx);
#endif
    }
  }
#endif
  return sets;
}

std::vector<const char*> available_isas() {
  std::vector<const char*> names;
  for (const Kernels* k : available()) names.push_back(k->name);
  return names;
}

static const Kernels& choose() {
  const auto sets = available();
  const char* name = std::getenv("MONOSEM_ISA");
  if (!name || !*name) return *sets.back();
  std::string names;
  for (const Kernels* k : sets) {
    if (!std::strcmp(k->name, name)) return *k;
    names += names.empty() ? k->name : std::string(", ") + k->name;
  }
  throw std::invalid_argument("MONOSEM_ISA: got '" + std::string(name) + "'; this processor and build have " + names);
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace ms
