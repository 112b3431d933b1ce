// Waking a thread that blocks in a system call, birth times, and file access times.
#pragma once
#include "gnu.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline void shl_wake_handler(int number) { (void)number; }
// SIGUSR1 interrupts the calling thread's blocking calls with EINTR and does nothing else. No SA_RESTART: that is the point.
static inline int shl_allow_interruption(void) {
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = shl_wake_handler;
    if (sigaction(SIGUSR1, &action, NULL) != 0) return -1;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    int code = pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    if (code != 0) { errno = code; return -1; }
    return 0;
}
static inline int shl_interrupt_thread(int32_t thread) { return (int)syscall(SYS_tgkill, getpid(), thread, SIGUSR1); }

// 0, or -1 with ENODATA where the file system keeps no birth time.
static inline int shl_birth_time(int fd, struct timespec *out) {
    struct statx x;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &x) != 0) return -1;
    if (!(x.stx_mask & STATX_BTIME)) { errno = ENODATA; return -1; }
    out->tv_sec = x.stx_btime.tv_sec;
    out->tv_nsec = x.stx_btime.tv_nsec;
    return 0;
}
