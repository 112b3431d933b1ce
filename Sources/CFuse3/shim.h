// libfuse3's low-level interface. _GNU_SOURCE comes first, as in CShrinkLinux: otherwise the two modules see the C library
// differently and Swift refuses to mix them.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <features.h>
// fd_set as Swift's Glibc module reads it, again as in CShrinkLinux (gnu.h). Only a clean build checks it.
#pragma push_macro("__USE_XOPEN")
#undef __USE_XOPEN
#include <sys/select.h>
#pragma pop_macro("__USE_XOPEN")
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
