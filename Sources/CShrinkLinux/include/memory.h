// Memory: memfds and seals, advice across processes, locking, the zero-page test.
#pragma once
#include "gnu.h"
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static inline int shl_memfd_create(const char *name, unsigned flags) { return memfd_create(name, flags); }
static inline int shl_add_seals(int fd, int seals) { return fcntl(fd, F_ADD_SEALS, seals); }
static inline int shl_get_seals(int fd) { return fcntl(fd, F_GET_SEALS); }
static inline int shl_mlockall_on_fault(void) {
    // MCL_FUTURE without MCL_ONFAULT would allocate every sparse pool mapping whole.
    return mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}
static inline int shl_mlock2_on_fault(const void *address, size_t length) { return mlock2(address, length, MLOCK_ONFAULT); }
static inline ssize_t shl_process_madvise(int pidfd, const struct iovec *v, size_t n, int advice) {
    return syscall(SYS_process_madvise, pidfd, v, n, advice, 0);
}
static inline int shl_map_failed(const void *address) { return address == MAP_FAILED; }

enum {
    SHL_SEAL_GROW = F_SEAL_GROW,
    SHL_SEAL_SHRINK = F_SEAL_SHRINK,
    SHL_SEAL_SEAL = F_SEAL_SEAL,
    SHL_MFD_CLOEXEC = MFD_CLOEXEC,
    SHL_MFD_ALLOW_SEALING = MFD_ALLOW_SEALING,
    SHL_MFD_HUGETLB = MFD_HUGETLB,
    SHL_MAP_POPULATE = MAP_POPULATE,
    SHL_MAP_NORESERVE = MAP_NORESERVE,
    SHL_MADV_DONTFORK = MADV_DONTFORK,
    SHL_MADV_PAGEOUT = MADV_PAGEOUT,
    SHL_MADV_HUGEPAGE = 14,
    SHL_MADV_POPULATE_WRITE = 23,
};

// 1 if all `length` bytes are zero. `length` is a multiple of 64, `bytes` is 8-aligned. Sixty-four bytes a step lets the
// compiler use vector registers, and the first non-zero step ends it.
static inline int shl_is_zero(const void *bytes, size_t length) {
    const uint64_t *w = (const uint64_t *)bytes;
    for (size_t i = 0; i < length / 8; i += 8) {
        if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7]) return 0;
    }
    return 1;
}

// Reads a byte and throws it away: for the page fault alone.
static inline void shl_touch(const void *address) { (void)*(const volatile unsigned char *)address; }

// Writes a byte back as it is: the page is dirty then.
static inline void shl_dirty(void *address) {
    volatile unsigned char *byte = (volatile unsigned char *)address;
    *byte = *byte;
}

// Page words live in shared memory that outlives the process. These are the only ways to touch one.
static inline uint64_t shl_load_acquire(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void shl_store_release(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline uint32_t shl_load_acquire32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void shl_store_release32(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline uint64_t shl_fetch_add(uint64_t *word, uint64_t value) { return __atomic_fetch_add(word, value, __ATOMIC_ACQ_REL); }

// Nobody may write any more: what is read now is what will be read.
enum { SHL_SEAL_WRITE = F_SEAL_WRITE };
