// Compare-and-swap of 64-bit words in shared memory, with the orders that a gate needs (ShrinkProtocol/GateWord.swift).
#pragma once
#include "gnu.h"

// 1 if `*word` was `*expected` and is `desired` now; else `*expected` is what it was. Strong: it fails only for a different value.
static inline int shl_replace_acquire(uint64_t *word, uint64_t *expected, uint64_t desired) {
    return __atomic_compare_exchange_n(word, expected, desired, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
static inline int shl_replace_release(uint64_t *word, uint64_t *expected, uint64_t desired) {
    return __atomic_compare_exchange_n(word, expected, desired, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}
static inline int shl_replace_both(uint64_t *word, uint64_t *expected, uint64_t desired) {
    return __atomic_compare_exchange_n(word, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static inline uint64_t shl_load_relaxed(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
