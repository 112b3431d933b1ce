// Which processor a thread runs on.
#pragma once
#include "gnu.h"
#include <sys/syscall.h>
#include <unistd.h>

// Lets a thread (0: the caller) run on one processor alone, or on all below 1024 for -1.
static inline int shl_place_thread(int thread, int processor) {
    unsigned long mask[16];
    for (int i = 0; i < 16; i++) mask[i] = processor < 0 ? ~0ul : 0;
    if (processor >= 0) mask[processor / 64 % 16] = 1ul << (processor % 64);
    return (int)syscall(SYS_sched_setaffinity, thread, sizeof mask, mask);
}

// fork(2), which Swift's Glibc module hides: for a program of one thread whose child does little.
static inline int shl_fork(void) { return fork(); }
