/*
 * test/lib/asan_first.c -- begins before every other library, and wakes ASan
 *
 * Preloaded, ASan's runtime sets itself up in the first malloc(). libp11-kit, which
 * the server has through libldap and GnuTLS, makes that call in a constructor, inside
 * newlocale(), which holds glibc's lock on locales. ASan asks dlerror() for a
 * message, which is translated, under the same lock; glibc takes that for a lock of
 * its own and frees the wrong one, and the next setlocale() waits for ever. Linked
 * with -z initfirst this constructor runs before, and nothing is held then.
 */
#include <stdlib.h>

static void *volatile first;

__attribute__((constructor)) static void
begin(void)
{
	first = malloc(1);
	free(first);
}
