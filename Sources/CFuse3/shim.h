// libfuse3's low-level interface. _GNU_SOURCE comes first, as in CShrinkLinux: otherwise the two modules see the C library
// differently and Swift refuses to mix them.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
