// Unix sockets: addresses, credentials, descriptors in ancillary data.
#pragma once
#include "gnu.h"
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SHL_MAX_DESCRIPTORS_PER_MESSAGE 64

struct shl_credentials { int32_t pid; uint32_t uid; uint32_t gid; };

// Fills a sockaddr_un; a leading '@' means the abstract namespace. Returns the address length, or -1 (ENAMETOOLONG).
static inline int shl_unix_address(struct sockaddr_un *address, const char *path) {
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(address->sun_path)) { errno = ENAMETOOLONG; return -1; }
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length);
    if (path[0] == '@') {
        address->sun_path[0] = 0;
        return (int)(offsetof(struct sockaddr_un, sun_path) + length);
    }
    return (int)(offsetof(struct sockaddr_un, sun_path) + length + 1);
}
static inline int shl_socket(int type) { return socket(AF_UNIX, type | SOCK_CLOEXEC, 0); }
static inline int shl_bind(int fd, const struct sockaddr_un *a, int length) { return bind(fd, (const struct sockaddr *)a, (socklen_t)length); }
static inline int shl_connect(int fd, const struct sockaddr_un *a, int length) { return connect(fd, (const struct sockaddr *)a, (socklen_t)length); }
static inline int shl_accept4(int fd, int flags) { return accept4(fd, NULL, NULL, flags | SOCK_CLOEXEC); }
static inline int shl_socketpair(int type, int ends[2]) { return socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends); }
static inline int shl_peer_credentials(int fd, struct shl_credentials *out) {
    struct ucred u;
    socklen_t length = sizeof(u);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &length) != 0) return -1;
    out->pid = u.pid; out->uid = u.uid; out->gid = u.gid;
    return 0;
}
static inline int shl_pass_credentials(int fd) {
    int on = 1;
    return setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
}

// sendmsg with up to SHL_MAX_DESCRIPTORS_PER_MESSAGE descriptors; never raises SIGPIPE.
static inline ssize_t shl_send(int fd, const void *bytes, size_t length, const int *fds, size_t count, int flags) {
    struct iovec v = { (void *)bytes, length };
    union { char space[CMSG_SPACE(sizeof(int) * SHL_MAX_DESCRIPTORS_PER_MESSAGE)]; struct cmsghdr align; } control;
    struct msghdr m;
    memset(&m, 0, sizeof(m));
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    if (count > SHL_MAX_DESCRIPTORS_PER_MESSAGE) { errno = EINVAL; return -1; }
    if (count > 0) {
        memset(&control, 0, sizeof(control));
        m.msg_control = control.space;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    return sendmsg(fd, &m, flags | MSG_NOSIGNAL);
}

struct shl_received {
    ssize_t length;
    size_t count;
    int truncated;          // ancillary data did not fit: descriptors were lost
    int has_credentials;
    struct shl_credentials credentials;
    int fds[SHL_MAX_DESCRIPTORS_PER_MESSAGE];
};

// recvmsg; received descriptors are close-on-exec. Returns the byte count, 0 at the end of the stream, or -1.
static inline ssize_t shl_receive(int fd, void *bytes, size_t length, struct shl_received *out, int flags) {
    struct iovec v = { bytes, length };
    union { char space[CMSG_SPACE(sizeof(int) * SHL_MAX_DESCRIPTORS_PER_MESSAGE) + CMSG_SPACE(sizeof(struct ucred))]; struct cmsghdr align; } control;
    struct msghdr m;
    memset(&m, 0, sizeof(m));
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    m.msg_control = control.space;
    m.msg_controllen = sizeof(control.space);
    out->count = 0;
    out->truncated = 0;
    out->has_credentials = 0;
    out->length = recvmsg(fd, &m, flags | MSG_CMSG_CLOEXEC);
    if (out->length < 0) return -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != SOL_SOCKET) continue;
        if (c->cmsg_type == SCM_RIGHTS) {
            size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            int *received = (int *)CMSG_DATA(c);
            for (size_t i = 0; i < n; i++) {
                if (out->count < SHL_MAX_DESCRIPTORS_PER_MESSAGE) out->fds[out->count++] = received[i];
                else close(received[i]);
            }
        } else if (c->cmsg_type == SCM_CREDENTIALS) {
            struct ucred u;
            memcpy(&u, CMSG_DATA(c), sizeof(u));
            out->has_credentials = 1;
            out->credentials.pid = u.pid; out->credentials.uid = u.uid; out->credentials.gid = u.gid;
        }
    }
    if (m.msg_flags & MSG_CTRUNC) out->truncated = 1;
    return out->length;
}

enum {
    SHL_SOCK_STREAM = SOCK_STREAM,
    SHL_SOCK_DGRAM = SOCK_DGRAM,
    SHL_SOCK_NONBLOCK = SOCK_NONBLOCK,
    SHL_MSG_DONTWAIT = MSG_DONTWAIT,
};
