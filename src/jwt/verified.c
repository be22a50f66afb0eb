/*
 * src/jwt/verified.c
 *	  Tokens that this backend verified before.
 *
 * A pooled backend sees the same few tokens with every request; checking a signature
 * costs fifty times as much as looking its token up. An entry is found by all of its
 * token: the SHA-256 of what was signed, which verifying needs anyway, never a shorter
 * hash, and the signature, byte by byte. An entry holds what does not
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
	GnTokenName name;
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
bucket_of(const GnTokenName *name)
{
	return &buckets[(name->digest[0] << 8 | name->digest[1]) & (BUCKETS - 1)];
}

static bool
same_name(const GnTokenName *a, const GnTokenName *b)
{
	return memcmp(a->digest, b->digest, sizeof(a->digest)) == 0 &&
		   a->signature_len == b->signature_len &&
		   memcmp(a->signature, b->signature, a->signature_len) == 0;
}

const GnVerified *
gn_verified_find(const GnTokenName *name, const char *audience)
{
	if (epoch != gn_jwt_cache_epoch())
		return NULL;
	for (int i = *bucket_of(name); i != NOBODY; i = entries[i].next)
	{
		Entry *entry = &entries[i];

		if (entry->verified.audience == audience && same_name(&entry->name, name))
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
	int16 *link = bucket_of(&entries[gone].name);

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
gn_verified_remember(const GnTokenName *name, const GnVerified *verified)
{
	Size size = VARSIZE(verified->claims);
	char *claims;
	int16 *bucket = bucket_of(name);
	Entry *entry;
	int place;

	if (epoch != gn_jwt_cache_epoch())
		begin_anew();
	/* all that can fail stands first */
	claims = MemoryContextAlloc(memory, size + name->signature_len);
	memcpy(claims, verified->claims, size);
	memcpy(claims + size, name->signature, name->signature_len);
	place = make_place();
	entry = &entries[place];
	entry->name = *name;
	entry->name.signature = claims + size;
	entry->verified = *verified;
	entry->verified.claims = (Jsonb *) claims;
	entry->asked_for = false;
	entry->next = *bucket;
	*bucket = (int16) place;
}
