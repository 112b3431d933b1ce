// Mounting and unmounting.
#pragma once
#include "gnu.h"
#include <sys/mount.h>

static inline int shl_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data) {
    return mount(source, target, type, flags, data);
}
static inline int shl_unmount(const char *target, int flags) { return umount2(target, flags); }
enum { SHL_MS_NOSUID = MS_NOSUID, SHL_MS_NODEV = MS_NODEV, SHL_MS_NOEXEC = MS_NOEXEC, SHL_MNT_DETACH = MNT_DETACH };
