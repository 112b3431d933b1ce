// What a supervisor of processes needs: signals as a descriptor, sessions, "is this the same open file", forced unmount.
#pragma once
#include "gnu.h"
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

// Blocks the signals in the calling thread (and those it starts later) and gives a non-blocking descriptor to read them from.
static inline int shl_signal_descriptor(const int *signals, size_t count) {
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < count; i++) {
        if (sigaddset(&set, signals[i]) != 0) return -1;
    }
    int code = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (code != 0) { errno = code; return -1; }
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}
struct shl_signal { uint32_t number; uint32_t sender; };
// 1 and a signal, 0 if none waits, -1.
static inline int shl_read_signal(int fd, struct shl_signal *out) {
    struct signalfd_siginfo info;
    ssize_t n = read(fd, &info, sizeof(info));
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    out->number = info.ssi_signo;
    out->sender = info.ssi_pid;
    return 1;
}
// 1 if both descriptors are one open file, 0 if not, -1 (EPERM or ENOSYS where the kernel or a filter refuses kcmp).
static inline int shl_same_open_file(int a, int b) {
    // F_DUPFD_QUERY (Linux 6.10), which sandboxes that forbid kcmp allow.
    int same = fcntl(a, 1027, b);
    if (same >= 0) return same;
    long result = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);
    return result < 0 ? -1 : result == 0;
}
// By number: <sys/resource.h> with _GNU_SOURCE defines enumerations that Swift's Glibc module has otherwise.
static inline int shl_descriptor_limit(uint64_t *soft, uint64_t *hard) {
    uint64_t limit[2];
    if (syscall(SYS_prlimit64, 0, 7 /* RLIMIT_NOFILE */, NULL, limit) != 0) return -1;
    *soft = limit[0];
    *hard = limit[1];
    return 0;
}
static inline int shl_set_descriptor_limit(uint64_t soft) {
    uint64_t limit[2];
    if (syscall(SYS_prlimit64, 0, 7, NULL, limit) != 0) return -1;
    limit[0] = soft;
    return (int)syscall(SYS_prlimit64, 0, 7, limit, NULL);
}
static inline int shl_process_exists(int32_t pid) { return pid > 0 && (kill(pid, 0) == 0 || errno == EPERM); }
enum { SHL_SPAWN_SETSID = POSIX_SPAWN_SETSID, SHL_MNT_FORCE_DETACH = MNT_FORCE | MNT_DETACH };
