// malloc(3)'s own settings, which Swift's view of the C library lacks.
#pragma once
#include <malloc.h>

// One heap for all threads, which grows by so much at least and gives nothing back below a limit.
static inline void shl_keep_one_heap(int growth, int kept) {
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TOP_PAD, growth);
    mallopt(M_TRIM_THRESHOLD, kept);
}
