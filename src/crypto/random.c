/*
 * src/crypto/random.c
 *	  Random bytes from a pool.
 *
 * libcrypto's generator takes 2 us for the 16 bytes of an id, most of them for being
 * called; asked for a few thousand at once it takes no longer. The pool belongs to one
 * process: a child begins with an empty one, whoever forks it, so no two processes ever
 * give out the same bytes. What was given out is overwritten at once.
 */
#include "postgres.h"

#include <pthread.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "crypto/crypto.h"

#define POOL_SIZE 4096
#define POOL_REQUEST_MAX 64 /* what is longer does not need one */

static uint8 pool[POOL_SIZE];
static size_t left = 0; /* at the pool's end */
static bool watched = false;

static void
empty_pool(void)
{
	left = 0;
	OPENSSL_cleanse(pool, sizeof(pool));
}

static void
generate(void *out, size_t len)
{
	if (RAND_bytes(out, (int) len) != 1)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("libcrypto failed: random bytes")));
}

void
gn_random(void *out, size_t len)
{
	uint8 *next;

	if (!watched)
		watched = pthread_atfork(NULL, NULL, empty_pool) == 0;
	if (!watched || len > POOL_REQUEST_MAX)
	{
		generate(out, len);
		return;
	}
	if (left < len)
	{
		left = 0;
		generate(pool, sizeof(pool));
		left = sizeof(pool);
	}
	next = pool + sizeof(pool) - left;
	memcpy(out, next, len);
	OPENSSL_cleanse(next, len);
	left -= len;
}
