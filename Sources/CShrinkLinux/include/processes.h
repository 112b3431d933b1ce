// Processes and threads: pidfds, names, signals to one's own children only.
#pragma once
#include "gnu.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// pthread_self() is declared const in glibc, so Swift may hoist it over an await; the thread id is not.
static inline int32_t shl_thread_id(void) { return (int32_t)syscall(SYS_gettid); }
static inline int shl_name_this_thread(const char *name) { return prctl(PR_SET_NAME, name, 0, 0, 0); }
static inline int shl_pidfd_open(int32_t pid) { return (int)syscall(SYS_pidfd_open, pid, 0); }
static inline int shl_pidfd_send_signal(int pidfd, int signal) { return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0); }
static inline int shl_die_with_parent(void) { return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); }
static inline int shl_set_io_flusher(void) { return prctl(57 /* PR_SET_IO_FLUSHER */, 1, 0, 0, 0); }
// All but SIGBUS: a thread that gets one while it is blocked ends the process, whatever handler there is (mappingfaults.h).
static inline int shl_block_signals_but_faults(void) {
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    return pthread_sigmask(SIG_SETMASK, &all, NULL);
}
static inline void shl_ignore_sigpipe(void) { signal(SIGPIPE, SIG_IGN); }
