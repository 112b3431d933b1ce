// What a store of pages needs from the processor: CRC-32C, sixteen-byte atomic words, counters in shared memory.
#pragma once
#include "gnu.h"
#include <string.h>
#if defined(__x86_64__)
// The compiler's builtins instead of <immintrin.h> and <cpuid.h>: those drag in <stdlib.h> as another module sees it (see gnu.h).
typedef long long shl_lanes __attribute__((vector_size(16)));
typedef long long shl_wide __attribute__((vector_size(64)));
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

#if defined(__x86_64__)
static inline unsigned shl_processor_features(void) {
    static unsigned known;
    unsigned features = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (features == 0) {
        unsigned a = 1, b, c = 0, d;
        __asm__ __volatile__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        features = c | 1u << 16;  // a reserved bit: known, whatever the processor has
        __atomic_store_n(&known, features, __ATOMIC_RELAXED);
    }
    return features;
}
static inline int shl_has_fast_crc(void) {
    const unsigned needed = 1u << 20 /* SSE4.2 */ | 1u << 1 /* PCLMULQDQ */;
    return (shl_processor_features() & needed) == needed;
}
// 1 if the processor has AVX-512 and VPCLMULQDQ, and the kernel keeps the wide registers across switches.
static inline int shl_has_wide_crc(void) {
    static int known;
    int has = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (has == 0) {
        unsigned a = 0, b = 0, c = 0, d = 0, kept = 0;
        __asm__ __volatile__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        const unsigned leaves = a;
        if (shl_has_fast_crc() && leaves >= 7 && (shl_processor_features() >> 27 & 1) /* OSXSAVE */) {
            __asm__ __volatile__("xgetbv" : "=a"(kept), "=d"(d) : "c"(0));
            a = 7;
            c = 0;
            __asm__ __volatile__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        } else {
            b = c = 0;
        }
        const unsigned registers = 0xe6;  // SSE, AVX and the three parts of AVX-512's state
        has = (kept & registers) == registers && (b >> 16 & 1) /* AVX512F */ && (c >> 10 & 1) /* VPCLMULQDQ */ ? 2 : 1;
        __atomic_store_n(&known, has, __ATOMIC_RELAXED);
    }
    return has == 2;
}
// AVX is the processor's promise that an aligned 16-byte load is one access.
static inline int shl_has_wide_load(void) { return (shl_processor_features() >> 28 & 1) != 0; }

__attribute__((target("sse4.2"))) static inline uint32_t shl_crc32c_hardware(uint32_t crc, const unsigned char *p, size_t n) {
    uint64_t c = crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        c = __builtin_ia32_crc32di(c, w);
    }
    for (; n > 0; n--, p++) c = __builtin_ia32_crc32qi((uint32_t)c, *p);
    return (uint32_t)c;
}

// The crc32 instruction has a latency of three and a throughput of one: three lanes of 170 words keep it busy. A lane's
// remainder is carried over the bytes behind it by one carry-less multiplication with x^(8n-33) mod P, n those bytes.
__attribute__((target("sse4.2,pclmul"))) static inline uint32_t shl_crc32c_page_hardware(uint32_t crc, const void *page) {
    const uint64_t *w = (const uint64_t *)page;
    uint64_t a = crc, b = 0, c = 0;
    for (int i = 0; i < 170; i++) {
        a = __builtin_ia32_crc32di(a, w[i]);
        b = __builtin_ia32_crc32di(b, w[170 + i]);
        c = __builtin_ia32_crc32di(c, w[340 + i]);
    }
    const shl_lanes over2720 = {0x5aa1f3cfll, 0}, over1360 = {0x3f70cc6fll, 0};
    const shl_lanes a2 = __builtin_ia32_pclmulqdq128((shl_lanes){(long long)a, 0}, over2720, 0);
    const shl_lanes b1 = __builtin_ia32_pclmulqdq128((shl_lanes){(long long)b, 0}, over1360, 0);
    c ^= __builtin_ia32_crc32di(0, (uint64_t)a2[0]) ^ __builtin_ia32_crc32di(0, (uint64_t)b1[0]);
    c = __builtin_ia32_crc32di(c, w[510]);
    return (uint32_t)__builtin_ia32_crc32di(c, w[511]);
}

// Four times 64 bytes at once. A piece of 16 bytes moves n bits on by one multiplication for each of its halves: by x^(n+31) mod P and by x^(n-33) mod P,
// the earlier bytes first (Intel's "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction").
#define SHL_MOVED_ON(piece, by) (__builtin_ia32_pclmulqdq512((piece), (by), 0x00) ^ __builtin_ia32_pclmulqdq512((piece), (by), 0x11))
__attribute__((target("avx512f,vpclmulqdq,sse4.2"))) static inline uint32_t shl_crc32c_page_wide(uint32_t crc, const void *page) {
    typedef long long piece __attribute__((vector_size(64), aligned(8)));
    const piece *p = (const piece *)page;
    const shl_wide by2048 = {0xdcb17aa4, 0xb9e02b86, 0xdcb17aa4, 0xb9e02b86, 0xdcb17aa4, 0xb9e02b86, 0xdcb17aa4, 0xb9e02b86};
    const shl_wide by1536 = {0xa87ab8a8, 0xab7aff2a, 0xa87ab8a8, 0xab7aff2a, 0xa87ab8a8, 0xab7aff2a, 0xa87ab8a8, 0xab7aff2a};
    const shl_wide by1024 = {0x6992cea2, 0x0d3b6092, 0x6992cea2, 0x0d3b6092, 0x6992cea2, 0x0d3b6092, 0x6992cea2, 0x0d3b6092};
    const shl_wide by512 = {0x740eef02, 0x9e4addf8, 0x740eef02, 0x9e4addf8, 0x740eef02, 0x9e4addf8, 0x740eef02, 0x9e4addf8};
    // By 384, 256 and 128; the last piece stays.
    const shl_wide within = {0x1c291d04, 0xddc0152b, 0x3da6d0cb, 0xba4fc28e, 0xf20c0dfe, 0x493c7d27, 0, 0};
    shl_wide a = p[0] ^ (shl_wide){(long long)crc, 0, 0, 0, 0, 0, 0, 0}, b = p[1], c = p[2], d = p[3];
    for (int i = 4; i < 64; i += 4) {
        a = SHL_MOVED_ON(a, by2048) ^ p[i];
        b = SHL_MOVED_ON(b, by2048) ^ p[i + 1];
        c = SHL_MOVED_ON(c, by2048) ^ p[i + 2];
        d = SHL_MOVED_ON(d, by2048) ^ p[i + 3];
    }
    d ^= SHL_MOVED_ON(a, by1536) ^ SHL_MOVED_ON(b, by1024) ^ SHL_MOVED_ON(c, by512);
    const shl_wide f = SHL_MOVED_ON(d, within);
    const uint64_t first = __builtin_ia32_crc32di(0, (uint64_t)(f[0] ^ f[2] ^ f[4] ^ d[6]));
    return (uint32_t)__builtin_ia32_crc32di(first, (uint64_t)(f[1] ^ f[3] ^ f[5] ^ d[7]));
}
#undef SHL_MOVED_ON
#endif

static inline uint32_t shl_crc32c_portable(uint32_t crc, const unsigned char *p, size_t n) {
#if defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        crc = __crc32cd(crc, w);
    }
    for (; n > 0; n--, p++) crc = __crc32cb(crc, *p);
#else
    // One table entry for each value of four bits: slow, small, and right everywhere.
    static const uint32_t table[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
    for (; n > 0; n--, p++) {
        crc = table[(crc ^ *p) & 15] ^ (crc >> 4);
        crc = table[(crc ^ (*p >> 4)) & 15] ^ (crc >> 4);
    }
#endif
    return crc;
}

// CRC-32C (Castagnoli), as iSCSI, ext4 and Btrfs use it: initial value and final complement included.
static inline uint32_t shl_crc32c(uint32_t previous, const void *bytes, size_t length) {
#if defined(__x86_64__)
    if (shl_has_fast_crc()) return ~shl_crc32c_hardware(~previous, (const unsigned char *)bytes, length);
#endif
    return ~shl_crc32c_portable(~previous, (const unsigned char *)bytes, length);
}

// The same of one 8-aligned page of 4096 bytes.
static inline uint32_t shl_crc32c_page(const void *page) {
#if defined(__x86_64__)
    if (shl_has_wide_crc()) return ~shl_crc32c_page_wide(~0u, page);
    if (shl_has_fast_crc()) return ~shl_crc32c_page_hardware(~0u, page);
#endif
    return ~shl_crc32c_portable(~0u, (const unsigned char *)page, 4096);
}

// 1 if the page repeats its first eight bytes. The first eight words that differ end it.
static inline int shl_is_same_filled(const void *page) {
    const uint64_t *w = (const uint64_t *)page;
    const uint64_t v = w[0];
    for (int i = 0; i < 512; i += 8) {
        if ((w[i] ^ v) | (w[i + 1] ^ v) | (w[i + 2] ^ v) | (w[i + 3] ^ v) | (w[i + 4] ^ v) | (w[i + 5] ^ v) | (w[i + 6] ^ v)
            | (w[i + 7] ^ v))
            return 0;
    }
    return 1;
}

// Two words that are read and replaced together, 16-aligned.
typedef struct {
    uint64_t low, high;
} shl_pair;

static inline int shl_pair_replace(void *address, shl_pair *expected, shl_pair desired) {
#if defined(__x86_64__)
    unsigned char done;
    __asm__ __volatile__("lock cmpxchg16b %1"
                         : "=@ccz"(done), "+m"(*(volatile unsigned __int128 *)address), "+a"(expected->low), "+d"(expected->high)
                         : "b"(desired.low), "c"(desired.high)
                         : "memory");
    return done;
#elif defined(__aarch64__)
    shl_pair seen;
    unsigned failed;
    do {
        __asm__ __volatile__("ldaxp %0, %1, [%2]" : "=&r"(seen.low), "=&r"(seen.high) : "r"(address) : "memory");
        const int same = seen.low == expected->low && seen.high == expected->high;
        // A pair is read whole only if it is stored back whole.
        const shl_pair next = same ? desired : seen;
        __asm__ __volatile__("stlxp %w0, %1, %2, [%3]" : "=&r"(failed) : "r"(next.low), "r"(next.high), "r"(address) : "memory");
        if (!failed && !same) {
            *expected = seen;
            return 0;
        }
    } while (failed);
    return 1;
#else
#error "a 16-byte compare-and-swap is needed"
#endif
}
static inline shl_pair shl_pair_load(void *address) {
#if defined(__x86_64__)
    if (shl_has_wide_load()) {
        shl_lanes v;
        __asm__ __volatile__("movdqa %1, %0" : "=x"(v) : "m"(*(const volatile shl_lanes *)address) : "memory");
        shl_pair p = {(uint64_t)v[0], (uint64_t)v[1]};
        return p;
    }
#endif
    shl_pair p = {0, 0};
    shl_pair_replace(address, &p, p);
    return p;
}

static inline uint64_t shl_exchange(uint64_t *word, uint64_t value) { return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST); }
static inline uint32_t shl_exchange32(uint32_t *word, uint32_t value) { return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST); }
static inline uint64_t shl_fetch_sub(uint64_t *word, uint64_t value) { return __atomic_fetch_sub(word, value, __ATOMIC_ACQ_REL); }
static inline uint32_t shl_fetch_or32(uint32_t *word, uint32_t bits) { return __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL); }
static inline uint32_t shl_fetch_and32(uint32_t *word, uint32_t bits) { return __atomic_fetch_and(word, bits, __ATOMIC_ACQ_REL); }
static inline int shl_replace(uint64_t *word, uint64_t expected, uint64_t desired) {
    return __atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static inline int shl_replace32(uint32_t *word, uint32_t expected, uint32_t desired) {
    return __atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
