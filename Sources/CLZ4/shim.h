// LZ4 as the distribution ships it (liblz4-dev): block format only, stable since version 1.9.
#pragma once
#include <lz4.h>
