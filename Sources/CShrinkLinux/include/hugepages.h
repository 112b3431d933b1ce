// Memory files of 2 MiB huge pages, and what userfaultfd knows of them.
#pragma once
#include "userfaults.h"
#include <sys/mman.h>

enum {
    // MFD_HUGE_2MB: the size's binary logarithm in the upper bits.
    SHL_MFD_HUGE_2MB = 21 << 26,
    // UFFDIO_REGISTER_MODE_MINOR
    SHL_UFFD_MODE_MINOR = 4,
    // UFFD_FEATURE_MINOR_HUGETLBFS
    SHL_UFFD_FEATURE_MINOR_HUGETLBFS = 1 << 9,
};

struct shl_uffdio_continue { uint64_t start, len, mode; int64_t mapped; };
_Static_assert(sizeof(struct shl_uffdio_continue) == 32, "uffdio_continue is 32 bytes");
// Maps pages that the file has already. EFAULT: it has not; EEXIST: mapped before.
static inline int shl_uffd_continue(int fd, uint64_t start, uint64_t length) {
    struct shl_uffdio_continue a = { start, length, 0, 0 };
    return ioctl(fd, _IOWR(0xAA, 0x07, struct shl_uffdio_continue), &a);
}
