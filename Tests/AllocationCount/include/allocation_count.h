#ifndef ALLOCATION_COUNT_H
#define ALLOCATION_COUNT_H

#include <stdint.h>

// How often this process, any thread of it, asked for memory: every malloc and its kin, the Swift runtime's too. UINT64_MAX where that can't be
// counted: a sanitizer has a malloc of its own.
uint64_t allocation_count(void);

#endif
