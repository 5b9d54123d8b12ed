// What this processor can do, and which level to use.
#include "native.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

static unsigned leaf7(int subleaf, int reg) {
    unsigned r[4] = {0};
    if (!__get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3])) return 0;
    return r[reg];
}
static unsigned long long xcr0(void) {
    unsigned r[4] = {0}, low, high;
    if (!__get_cpuid(1, &r[0], &r[1], &r[2], &r[3]) || !(r[2] & (1u << 27))) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}
static int runs_avx2(void) {
    unsigned r[4] = {0};
    return __get_cpuid(1, &r[0], &r[1], &r[2], &r[3]) && (r[2] & (1u << 12)) && (r[2] & (1u << 29)) &&
           (leaf7(0, 1) & (1u << 5)) && (xcr0() & 6) == 6;
}
#ifdef MODERN_COMPILER
static int runs_avx_vnni(void) { return runs_avx2() && (leaf7(1, 0) & (1u << 4)); }
#else
#define avx_vnni_level avx2_level
static int runs_avx_vnni(void) { return 0; }
#endif
static int runs_avx512(void) {
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vnni = 1u << 11;
    const unsigned ebx = leaf7(0, 1);
    return runs_avx2() && (ebx & f) && (ebx & dq) && (ebx & bw) && (ebx & vl) && (leaf7(0, 2) & vnni) &&
           (xcr0() & 0xe6) == 0xe6;
}
// Tiles with BF16 products, and AVX-512 BF16 to unpack for them; Linux grants tiles when asked.
static int runs_amx(void) {
    const unsigned tile = 1u << 24, bf16 = 1u << 22, avx512_bf16 = 1u << 5;
    if (!runs_avx512() || !(leaf7(1, 0) & avx512_bf16)) return 0;
#ifdef EMULATE_TILES
    return 1;
#endif
    if (!(leaf7(0, 3) & tile) || !(leaf7(0, 3) & bf16) || (xcr0() & 0x60000) != 0x60000) return 0;
#if defined(__linux__) && defined(MODERN_COMPILER)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, tile data
#else
    return 0;
#endif
}
#else
static int runs_avx2(void) { return 0; }
static int runs_avx_vnni(void) { return 0; }
static int runs_avx512(void) { return 0; }
static int runs_amx(void) { return 0; }
#endif

enum { PORTABLE, AVX2, AVX_VNNI, AVX512, AMX, LEVELS };
static const char *const names[LEVELS] = {"portable", "avx2", "avx_vnni", "avx512", "amx"};
static int chosen = -1;  // written whole, and never to a level that does not run here: passes read it meanwhile

static int runs(int which) {
    return which == PORTABLE || (which == AVX2 && runs_avx2()) || (which == AVX_VNNI && runs_avx_vnni()) ||
           (which == AVX512 && runs_avx512()) || (which == AMX && runs_amx());
}

// Use the level of that name, or the best one (NULL or ""). 0; 1 if there is none of the name, 2 if it cannot run here.
EXPORT int itrex_choose(const char *name) {
    if (!name || !*name) {
        int best = AMX;
        while (!runs(best)) best--;
        __atomic_store_n(&chosen, best, __ATOMIC_RELAXED);
        return 0;
    }
    for (int which = 0; which < LEVELS; which++)
        if (!strcmp(name, names[which])) {
            if (!runs(which)) return 2;
            __atomic_store_n(&chosen, which, __ATOMIC_RELAXED);
            return 0;
        }
    return 1;
}

static int in_use(void) {
    if (__atomic_load_n(&chosen, __ATOMIC_RELAXED) < 0) itrex_choose(NULL);
    return __atomic_load_n(&chosen, __ATOMIC_RELAXED);
}

#ifndef ITREX_SOURCES
#define ITREX_SOURCES ""
#endif
// The digest of the sources that this was built from, as built_from.py makes it; empty where nobody gave it.
EXPORT const char *itrex_sources(void) { return ITREX_SOURCES; }

EXPORT const char *itrex_level(void) { return names[in_use()]; }

const Level *level(void) {
#if defined(__x86_64__)
    const int which = in_use();
    return which >= AVX512 ? &avx512_level : which == AVX_VNNI ? &avx_vnni_level
         : which == AVX2 ? &avx2_level : &portable_level;
#else
    return &portable_level;
#endif
}

int has_vnni512(void) { return in_use() >= AVX512; }
int has_amx(void) { return in_use() == AMX; }
