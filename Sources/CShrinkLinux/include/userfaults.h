// userfaultfd(2): page faults of a process that another one resolves. <linux/userfaultfd.h> of older systems lacks POISON.
#pragma once
#include "gnu.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static inline int shl_userfaultfd(int flags) { return (int)syscall(SYS_userfaultfd, flags); }
// ioctl on /dev/userfaultfd: a userfaultfd of the calling process.
static inline int shl_userfaultfd_new(int device, int flags) { return ioctl(device, _IO(0xAA, 0x00), flags); }
static inline int shl_uffd_api(int fd, uint64_t wanted, uint64_t *features) {
    struct uffdio_api a = { .api = UFFD_API, .features = wanted };
    int r = ioctl(fd, UFFDIO_API, &a);
    *features = a.features;
    return r;
}
static inline int shl_uffd_register(int fd, uint64_t start, uint64_t length, uint64_t mode) {
    struct uffdio_register a = { .range = { start, length }, .mode = mode };
    return ioctl(fd, UFFDIO_REGISTER, &a);
}
static inline int shl_uffd_unregister(int fd, uint64_t start, uint64_t length) {
    struct uffdio_range a = { start, length };
    return ioctl(fd, UFFDIO_UNREGISTER, &a);
}
static inline int shl_uffd_wake(int fd, uint64_t start, uint64_t length) {
    struct uffdio_range a = { start, length };
    return ioctl(fd, UFFDIO_WAKE, &a);
}
// `done`: bytes that were placed, also when the call stopped in the middle.
static inline int shl_uffd_copy(int fd, uint64_t to, const void *from, uint64_t length, uint64_t mode, int64_t *done) {
    struct uffdio_copy a = { .dst = to, .src = (uint64_t)(uintptr_t)from, .len = length, .mode = mode };
    int r = ioctl(fd, UFFDIO_COPY, &a);
    *done = a.copy;
    return r;
}
static inline int shl_uffd_zeropage(int fd, uint64_t start, uint64_t length, uint64_t mode, int64_t *done) {
    struct uffdio_zeropage a = { .range = { start, length }, .mode = mode };
    int r = ioctl(fd, UFFDIO_ZEROPAGE, &a);
    *done = a.zeropage;
    return r;
}
static inline int shl_uffd_continue(int fd, uint64_t start, uint64_t length, uint64_t mode, int64_t *done) {
    struct uffdio_continue a = { .range = { start, length }, .mode = mode };
    int r = ioctl(fd, UFFDIO_CONTINUE, &a);
    *done = a.mapped;
    return r;
}
static inline int shl_uffd_writeprotect(int fd, uint64_t start, uint64_t length, uint64_t mode) {
    struct uffdio_writeprotect a = { .range = { start, length }, .mode = mode };
    return ioctl(fd, UFFDIO_WRITEPROTECT, &a);
}
struct shl_uffdio_poison { uint64_t start, len, mode; int64_t updated; };
_Static_assert(sizeof(struct shl_uffdio_poison) == 32, "uffdio_poison is 32 bytes");
static inline int shl_uffd_poison(int fd, uint64_t start, uint64_t length, uint64_t mode, int64_t *done) {
    struct shl_uffdio_poison a = { start, length, mode, 0 };
    int r = ioctl(fd, _IOWR(0xAA, 0x08, struct shl_uffdio_poison), &a);
    *done = a.updated;
    return r;
}

// One message, flat: what its fields mean goes by the event.
struct shl_uffd_message { uint8_t event; uint64_t first, second, third; };
static inline long shl_uffd_read(int fd, struct shl_uffd_message *out, int capacity) {
    struct uffd_msg m[16];
    if (capacity > 16) capacity = 16;
    // Whoever made the descriptor may take O_NONBLOCK off it at any moment; RWF_NOWAIT (Linux 6.10 for these) can't be taken off.
    struct iovec v = { m, sizeof m[0] * (size_t)capacity };
    long n = preadv2(fd, &v, 1, -1, 0x8);
    if (n < 0 && errno == EOPNOTSUPP) n = read(fd, m, v.iov_len);
    if (n < 0) return n;
    n /= (long)sizeof m[0];
    for (long i = 0; i < n; i++) {
        out[i].event = m[i].event;
        out[i].first = out[i].second = out[i].third = 0;
        switch (m[i].event) {
        case UFFD_EVENT_PAGEFAULT: out[i].first = m[i].arg.pagefault.flags; out[i].second = m[i].arg.pagefault.address; break;
        case UFFD_EVENT_FORK: out[i].first = m[i].arg.fork.ufd; break;
        case UFFD_EVENT_REMAP: out[i].first = m[i].arg.remap.from; out[i].second = m[i].arg.remap.to; out[i].third = m[i].arg.remap.len; break;
        case UFFD_EVENT_REMOVE:
        case UFFD_EVENT_UNMAP: out[i].first = m[i].arg.remove.start; out[i].second = m[i].arg.remove.end; break;
        }
    }
    return n;
}
static inline void *shl_move_mapping(void *old, size_t length) {
    // A place that is free, and taken so that nobody gets it in between.
    void *place = mmap(0, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) return place;
    return mremap(old, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, place);
}
static inline int shl_madvise(void *address, size_t length, int advice) { return madvise(address, length, advice); }

static const int SHL_UFFD_USER_MODE_ONLY = 1;

static const uint64_t SHL_UFFD_FEATURE_WP = 1u << 0, SHL_UFFD_FEATURE_FORK = 1u << 1, SHL_UFFD_FEATURE_REMAP = 1u << 2,
    SHL_UFFD_FEATURE_REMOVE = 1u << 3, SHL_UFFD_FEATURE_MISSING_HUGETLBFS = 1u << 4, SHL_UFFD_FEATURE_MISSING_SHMEM = 1u << 5,
    SHL_UFFD_FEATURE_UNMAP = 1u << 6, SHL_UFFD_FEATURE_WP_SHARED = 1u << 12, SHL_UFFD_FEATURE_POISON = 1u << 14;
