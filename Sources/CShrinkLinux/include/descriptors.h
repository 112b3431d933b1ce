// Descriptors: duplication, flags, pipes.
#pragma once
#include "gnu.h"
#include <fcntl.h>
#include <unistd.h>
#include <sys/syscall.h>

static inline int shl_pipe2(int ends[2], int flags) { return pipe2(ends, flags); }
static inline int shl_duplicate_cloexec(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }
static inline int shl_duplicate_cloexec_above(int fd, int lowest) { return fcntl(fd, F_DUPFD_CLOEXEC, lowest); }
static inline int shl_get_descriptor_flags(int fd) { return fcntl(fd, F_GETFD); }
static inline int shl_set_descriptor_flags(int fd, int flags) { return fcntl(fd, F_SETFD, flags); }
static inline int shl_get_status_flags(int fd) { return fcntl(fd, F_GETFL); }
static inline int shl_set_status_flags(int fd, int flags) { return fcntl(fd, F_SETFL, flags); }
