// The FUSE device's ioctls and the protocol structures newer than Debian's libfuse 3.14
// (linux/fuse.h, protocol 7.40 and later).
#pragma once
#include "gnu.h"
#include <sys/ioctl.h>

struct shl_fuse_backing_map { int32_t fd; uint32_t flags; uint64_t padding; };
struct shl_fuse_open_out { uint64_t fh; uint32_t open_flags; int32_t backing_id; };
struct shl_fuse_in_header { uint32_t len; uint32_t opcode; uint64_t unique; uint64_t nodeid; uint32_t uid, gid, pid; uint16_t extlen, padding; };
struct shl_fuse_out_header { uint32_t len; int32_t error; uint64_t unique; };
struct shl_fuse_init_in { uint32_t major, minor, max_readahead, flags, flags2; uint32_t unused[11]; };
struct shl_fuse_init_out {
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
    uint16_t request_timeout;
    uint16_t unused[11];
};
_Static_assert(sizeof(struct shl_fuse_init_out) == 64, "fuse_init_out is 64 bytes");
_Static_assert(sizeof(struct shl_fuse_backing_map) == 16, "fuse_backing_map is 16 bytes");

// Returns a backing id (> 0), or -1: EPERM without CAP_SYS_ADMIN or negotiation, ELOOP for a stacked file system.
static inline int shl_fuse_backing_open(int device, int fd) {
    struct shl_fuse_backing_map m = { .fd = fd, .flags = 0, .padding = 0 };
    return ioctl(device, _IOW(229, 1, struct shl_fuse_backing_map), &m);
}
static inline int shl_fuse_backing_close(int device, uint32_t id) { return ioctl(device, _IOW(229, 2, uint32_t), &id); }

static const uint32_t SHL_FUSE_INIT_OPCODE = 26;
static const uint32_t SHL_FUSE_COPY_FILE_RANGE = 47;
static const uint32_t SHL_FUSE_COPY_FILE_RANGE_64 = 53;
static const uint32_t SHL_FUSE_NOTIFY_RESEND = 7;
static const uint64_t SHL_FUSE_UNIQUE_RESEND = 1ull << 63;
static const uint32_t SHL_FUSE_PARALLEL_DIROPS = 1u << 18;
static const uint32_t SHL_FUSE_HANDLE_KILLPRIV_V2 = 1u << 28;
static const uint32_t SHL_FUSE_INIT_EXT = 1u << 30;
// flags2 holds bits 32 and up.
static const uint32_t SHL_FUSE2_DIRECT_IO_ALLOW_MMAP = 1u << 4;
static const uint32_t SHL_FUSE2_PASSTHROUGH = 1u << 5;
static const uint32_t SHL_FUSE2_NO_EXPORT_SUPPORT = 1u << 6;
static const uint32_t SHL_FUSE2_HAS_RESEND = 1u << 7;
static const uint32_t SHL_FOPEN_DIRECT_IO = 1u << 0;
static const uint32_t SHL_FOPEN_NOFLUSH = 1u << 5;
static const uint32_t SHL_FOPEN_PARALLEL_DIRECT_WRITES = 1u << 6;
static const uint32_t SHL_FOPEN_PASSTHROUGH = 1u << 7;

struct shl_fuse_attr {
    uint64_t ino, size, blocks, atime, mtime, ctime;
    uint32_t atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags;
};
// The body of the reply to CREATE.
struct shl_fuse_create_out {
    uint64_t nodeid, generation, entry_valid, attr_valid;
    uint32_t entry_valid_nsec, attr_valid_nsec;
    struct shl_fuse_attr attr;
    struct shl_fuse_open_out open;
};
_Static_assert(sizeof(struct shl_fuse_attr) == 88, "fuse_attr is 88 bytes");
_Static_assert(sizeof(struct shl_fuse_create_out) == 144, "fuse_entry_out and fuse_open_out are 128 and 16 bytes");
