/* src/core/siphash.h -- SipHash-2-4 with a result of 128 bits, keyed */
#ifndef GN_SIPHASH_H
#define GN_SIPHASH_H

#include "postgres.h"

/* Without the key nobody can name two inputs that collide. */
extern void
gn_siphash(const uint64 key[2], const void *data, size_t len, uint64 out[2]);

#endif
