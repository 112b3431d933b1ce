// Every header of this module starts with this one. Swift's Glibc module is built without _GNU_SOURCE,
// so the Linux calls it lacks are reached through the static inline functions beside this file.
// Three rules keep the two views of the C library the same, which the compiler checks only in a clean build:
// fd_set is read as Swift's module reads it (below), <sys/resource.h> is not included (one of its enums differs),
// and _FILE_OFFSET_BITS is not defined (struct flock would differ; off_t is 64 bits on every supported machine).
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <features.h>
// fd_set comes with <sys/types.h>; read without __USE_XOPEN its field has the name that it has in Swift's module.
#pragma push_macro("__USE_XOPEN")
#undef __USE_XOPEN
#include <sys/select.h>
#pragma pop_macro("__USE_XOPEN")
#include <errno.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/types.h>
