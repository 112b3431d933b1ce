// Waiting: epoll, eventfd, timerfd, poll.
#pragma once
#include "gnu.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

static inline int shl_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
static inline int shl_epoll_set(int epoll, int operation, int fd, uint32_t events, uint64_t token) {
    struct epoll_event e = { .events = events, .data = { .u64 = token } };
    return epoll_ctl(epoll, operation, fd, &e);
}
struct shl_event { uint32_t events; uint64_t token; };
static inline int shl_epoll_wait(int epoll, struct shl_event *out, int capacity, int timeout_ms) {
    struct epoll_event e[64];
    if (capacity > 64) capacity = 64;
    int n = epoll_wait(epoll, e, capacity, timeout_ms);
    for (int i = 0; i < n; i++) { out[i].events = e[i].events; out[i].token = e[i].data.u64; }
    return n;
}
static inline int shl_eventfd(unsigned initial) { return eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK); }
enum {
    SHL_EPOLL_ADD = EPOLL_CTL_ADD, SHL_EPOLL_MOD = EPOLL_CTL_MOD, SHL_EPOLL_DEL = EPOLL_CTL_DEL,
};
static const uint32_t SHL_EPOLLIN = 0x001, SHL_EPOLLPRI = 0x002, SHL_EPOLLOUT = 0x004, SHL_EPOLLERR = 0x008,
    SHL_EPOLLHUP = 0x010, SHL_EPOLLRDHUP = 0x2000, SHL_EPOLLONESHOT = 1u << 30;
