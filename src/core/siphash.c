/*
 * src/core/siphash.c
 *	  SipHash-2-4 with a result of 128 bits (Aumasson and Bernstein, 2012).
 *
 * For tables whose keys strangers choose: with a secret key they can neither fill one
 * chain nor come upon another's entry. No server is needed, so that a unit test can
 * hold it against the published vectors.
 */
#include "postgres.h"

#include "core/siphash.h"

#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))

static inline void
rounds(uint64 v[4], int count)
{
	while (count-- > 0)
	{
		v[0] += v[1];
		v[1] = ROTATE(v[1], 13) ^ v[0];
		v[0] = ROTATE(v[0], 32);
		v[2] += v[3];
		v[3] = ROTATE(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = ROTATE(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = ROTATE(v[1], 17) ^ v[2];
		v[2] = ROTATE(v[2], 32);
	}
}

/* Up to eight bytes, the first one the least. */
static inline uint64
load(const uint8 *bytes, size_t count)
{
	uint64 word = 0;

	for (size_t i = 0; i < count; i++)
		word |= (uint64) bytes[i] << (8 * i);
	return word;
}

static inline void
absorb(uint64 v[4], uint64 word)
{
	v[3] ^= word;
	rounds(v, 2);
	v[0] ^= word;
}

void
gn_siphash(const uint64 key[2], const void *data, size_t len, uint64 out[2])
{
	const uint8 *bytes = data;
	size_t whole = len & ~(size_t) 7;
	uint64 v[4] = {
		key[0] ^ UINT64CONST(0x736f6d6570736575),
		key[1] ^ UINT64CONST(0x646f72616e646f6d) ^ 0xee,
		key[0] ^ UINT64CONST(0x6c7967656e657261),
		key[1] ^ UINT64CONST(0x7465646279746573),
	};

	for (size_t i = 0; i < whole; i += 8)
		absorb(v, load(bytes + i, 8));
	absorb(v, load(bytes + whole, len - whole) | (uint64) len << 56);
	v[2] ^= 0xee;
	rounds(v, 4);
	out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	v[1] ^= 0xdd;
	rounds(v, 4);
	out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}
