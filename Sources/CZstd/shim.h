// Zstandard as the distribution ships it (libzstd-dev): simple and context calls of the stable interface.
#pragma once
#include <zstd.h>
#include <zstd_errors.h>
