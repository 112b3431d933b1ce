// io_uring, as far as pinning memory for a device goes: a ring, and buffers registered with it (io_uring_setup(2), io_uring_register(2)).
#pragma once
#include "gnu.h"
#include <linux/io_uring.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static inline int shl_io_uring_setup(unsigned entries) {
    struct io_uring_params parameters;
    memset(&parameters, 0, sizeof parameters);
    return (int)syscall(SYS_io_uring_setup, entries, &parameters);
}
static inline int shl_io_uring_register_buffers(int ring, const struct iovec *buffers, unsigned count) {
    return (int)syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, buffers, count);
}
static inline int shl_io_uring_unregister_buffers(int ring) {
    return (int)syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, (void *)0, 0);
}
