// The least that recover on touch can cost: wait for a fault, read its 4 KiB from the store, place them. What shrinkd does beside that is measured against this.
#pragma once
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>
#include <unistd.h>

// Serves the faults of one registered range, page for page: page i is at offset (first + i) % pages_per_file of file files[(first + i) / pages_per_file]. Returns 0 when
// `stop` has something to read, or an errno.
static inline int touch_floor_serve(int uffd, int stop, uint64_t start, const int *files, uint64_t pages_per_file, void *buffer) {
    for (;;) {
        struct pollfd waits[2] = { { uffd, POLLIN, 0 }, { stop, POLLIN, 0 } };
        if (poll(waits, 2, -1) < 0) {
            if (errno == EINTR) continue;
            return errno;
        }
        if (waits[1].revents) return 0;
        struct uffd_msg message;
        ssize_t n = read(uffd, &message, sizeof message);
        if (n < 0 && errno == EAGAIN) continue;
        if (n != (ssize_t)sizeof message || message.event != UFFD_EVENT_PAGEFAULT) return EPROTO;
        uint64_t address = message.arg.pagefault.address & ~(uint64_t)4095;
        uint64_t page = (address - start) / 4096;
        if (pread(files[page / pages_per_file], buffer, 4096, (off_t)(page % pages_per_file * 4096)) != 4096) return EIO;
        struct uffdio_copy copy = { .dst = address, .src = (uint64_t)(uintptr_t)buffer, .len = 4096, .mode = 0 };
        if (ioctl(uffd, UFFDIO_COPY, &copy) < 0 && errno != EEXIST) return errno;
    }
}
