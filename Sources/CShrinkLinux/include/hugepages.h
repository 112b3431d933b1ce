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
