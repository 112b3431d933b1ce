// Every header of this module starts with this one. Swift's Glibc module is built without _GNU_SOURCE,
// so the Linux calls it lacks are reached through the static inline functions beside this file.
// Two rules keep the two views of the C library compatible: never use fd_set (its field names differ),
// never define _FILE_OFFSET_BITS (struct flock would differ; off_t is 64 bits on every supported machine).
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/types.h>
