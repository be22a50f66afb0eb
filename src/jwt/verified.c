/*
 * src/jwt/verified.c
 *	  Tokens that this backend verified before.
 *
 * A pooled backend sees the same few tokens with every request; checking a signature
 * costs fifty times as much as looking its token up. The key of an entry is the
 * SHA-256 of the whole token, never a shorter hash. An entry holds what does not
 * change, the signature and the claims; what does, time and the state of the key, is
 * asked at every hit. As soon as any key or option changes, all is forgotten.
 *
 * Bounded: 256 entries; the hand of a clock gives up the first that was not asked for
 * since it came by last.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "jwt/verified.h"

#define ENTRIES 256
#define BUCKETS 512 /* a power of two */
#define NOBODY (-1)

typedef struct Entry
{
	GnTokenDigest digest;
	GnVerified verified;
	bool asked_for;
	int16 next; /* of its bucket */
} Entry;

static MemoryContext memory = NULL;
static uint64 epoch = 0; /* that the entries belong to */
static Entry *entries;
static int count;
static int hand;
static int16 buckets[BUCKETS];

static void
begin_anew(void)
{
	if (memory == NULL)
		memory = AllocSetContextCreate(TopMemoryContext, "grownext verified tokens",
									   ALLOCSET_DEFAULT_SIZES);
	epoch = 0;
	MemoryContextReset(memory);
	entries = MemoryContextAlloc(memory, ENTRIES * sizeof(Entry));
	count = 0;
	hand = 0;
	for (int i = 0; i < BUCKETS; i++)
		buckets[i] = NOBODY;
	epoch = gn_jwt_cache_epoch();
}

static int16 *
bucket_of(const GnTokenDigest *digest)
{
	return &buckets[(digest->bytes[0] << 8 | digest->bytes[1]) & (BUCKETS - 1)];
}

const GnVerified *
gn_verified_find(const GnTokenDigest *digest, const char *audience)
{
	if (epoch != gn_jwt_cache_epoch())
		return NULL;
	for (int i = *bucket_of(digest); i != NOBODY; i = entries[i].next)
	{
		Entry *entry = &entries[i];

		if (entry->verified.audience == audience &&
			memcmp(entry->digest.bytes, digest->bytes, sizeof(digest->bytes)) == 0)
		{
			entry->asked_for = true;
			return &entry->verified;
		}
	}
	return NULL;
}

static void
unlink_entry(int gone)
{
	int16 *link = bucket_of(&entries[gone].digest);

	while (*link != gone)
		link = &entries[*link].next;
	*link = entries[gone].next;
}

/* A free place; the entry that had it is gone. */
static int
make_place(void)
{
	int place;

	if (count < ENTRIES)
		return count++;
	while (entries[hand].asked_for)
	{
		entries[hand].asked_for = false;
		hand = (hand + 1) % ENTRIES;
	}
	place = hand;
	hand = (hand + 1) % ENTRIES;
	unlink_entry(place);
	pfree(entries[place].verified.claims);
	return place;
}

void
gn_verified_remember(const GnTokenDigest *digest, const GnVerified *verified)
{
	Size size = VARSIZE(verified->claims);
	Jsonb *claims;
	int16 *bucket = bucket_of(digest);
	Entry *entry;
	int place;

	if (epoch != gn_jwt_cache_epoch())
		begin_anew();
	claims = MemoryContextAlloc(memory, size); /* all that can fail stands first */
	memcpy(claims, verified->claims, size);
	place = make_place();
	entry = &entries[place];
	entry->digest = *digest;
	entry->verified = *verified;
	entry->verified.claims = claims;
	entry->asked_for = false;
	entry->next = *bucket;
	*bucket = (int16) place;
}
