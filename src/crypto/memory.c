/*
 * src/crypto/memory.c
 *	  Memory that forgets: overwritten before it is given back.
 *
 * A reset callback of the memory context does it, which runs at reset and at
 * deletion, after an error too, while the memory is still ours.
 */
#include "postgres.h"

#include <openssl/crypto.h>

#include "utils/memutils.h"

#include "crypto/crypto.h"

typedef struct SecretBlock
{
	MemoryContextCallback callback;
	size_t size;
	uint8 bytes[FLEXIBLE_ARRAY_MEMBER];
} SecretBlock;

static void
forget_block(void *arg)
{
	SecretBlock *block = arg;

	OPENSSL_cleanse(block->bytes, block->size);
}

/* The callback runs at reset and at deletion, after an error too, before memory is
 * freed. */
void *
gn_secret_alloc(size_t size)
{
	SecretBlock *block = palloc(offsetof(SecretBlock, bytes) + size);

	block->size = size;
	block->callback.func = forget_block;
	block->callback.arg = block;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &block->callback);
	return block->bytes;
}
