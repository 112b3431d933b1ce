// How much of a file's range is in memory (cachestat(2), Linux 6.5; newer than the C library's headers).
#pragma once
#include "gnu.h"
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct shl_cachestat_range {
    uint64_t offset, length;
};
struct shl_cachestat {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

static inline int shl_cachestat(int fd, uint64_t offset, uint64_t length, struct shl_cachestat *result) {
    struct shl_cachestat_range range = {offset, length};
    // 451 on every architecture (asm-generic/unistd.h).
    return (int)syscall(451, (unsigned)fd, &range, result, 0);
}
