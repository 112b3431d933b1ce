// Files: opening, holes, vectored and synchronous writes, file system identity.
#pragma once
#include "gnu.h"
#include <fcntl.h>
#include <unistd.h>
#include <dirent.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <linux/falloc.h>
#include <linux/magic.h>

static inline int shl_openat(int directory, const char *path, int flags, mode_t mode) {
    return openat(directory, path, flags, mode);
}
static inline int shl_fallocate(int fd, int mode, off_t offset, off_t length) {
    return fallocate(fd, mode, offset, length);
}
static inline ssize_t shl_pwritev2(int fd, const struct iovec *v, int n, off_t offset, int flags) {
    return pwritev2(fd, v, n, offset, flags);
}
static inline int shl_lock_exclusive_nonblocking(int fd) { return flock(fd, LOCK_EX | LOCK_NB); }
static inline int shl_sync_file_range(int fd, off_t offset, off_t length, unsigned flags) {
    return sync_file_range(fd, offset, length, flags);
}
static inline int shl_close_range(unsigned first, unsigned last, unsigned flags) {
    return (int)syscall(SYS_close_range, first, last, flags);
}

enum {
    SHL_O_DIRECT = O_DIRECT,
    SHL_O_PATH = O_PATH,
    SHL_O_TMPFILE = O_TMPFILE,
    SHL_O_NOATIME = O_NOATIME,
    SHL_SEEK_DATA = SEEK_DATA,
    SHL_SEEK_HOLE = SEEK_HOLE,
    SHL_RWF_DSYNC = RWF_DSYNC,
    SHL_PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    SHL_ZERO_RANGE = FALLOC_FL_ZERO_RANGE,
    SHL_KEEP_SIZE = FALLOC_FL_KEEP_SIZE,
    SHL_FALLOC_PUNCH = FALLOC_FL_PUNCH_HOLE,
};
static const uint64_t SHL_TMPFS_MAGIC = 0x01021994u;
static const uint64_t SHL_RAMFS_MAGIC = 0x858458f6u;
static const uint64_t SHL_HUGETLBFS_MAGIC = 0x958458f6u;
static const uint64_t SHL_FUSE_MAGIC = 0x65735546u;
