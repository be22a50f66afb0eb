/*
 * src/account/email.c
 *	  Which spellings of an email address are one account.
 *
 * The key of an address is its compatibility form (NFKC) with case folded, both by
 * tables that neither locale nor server version chooses: "Müller", "MÜLLER" and the
 * spelling with a combining diaeresis are one, in a database of any locale. What is
 * refused is what mail programs read as something else than one plain address:
 * spaces, control and invisible characters, list and comment syntax. It is looked
 * for in the key, since compatibility forms hide such characters.
 */
#include "postgres.h"

#include "common/unicode_norm.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "account/fold.h"
#include "core/core.h"

GN_FUNCTION(gn_account_email_key);

#define EMAIL_CHARACTERS 320 /* 64, "@" and 255 (RFC 5321, section 4.5.3.1) */
#define KEY_CHARACTERS 640   /* some letters have several in the compatibility form */

typedef struct CharacterRange
{
	pg_wchar first;
	pg_wchar last;
} CharacterRange;

/* Control characters, spaces, and what has no width or turns the direction. */
static const CharacterRange unseen[] = {
	{0x0000, 0x0020}, {0x007f, 0x00a0}, {0x00ad, 0x00ad},   {0x034f, 0x034f},
	{0x061c, 0x061c}, {0x115f, 0x1160}, {0x1680, 0x1680},   {0x17b4, 0x17b5},
	{0x180b, 0x180f}, {0x2000, 0x200f}, {0x2028, 0x202f},   {0x205f, 0x206f},
	{0x3000, 0x3000}, {0x3164, 0x3164}, {0xfe00, 0xfe0f},   {0xfeff, 0xfeff},
	{0xffa0, 0xffa0}, {0xfff0, 0xffff}, {0xe0000, 0xe0fff},
};

static bool
is_unseen(pg_wchar c)
{
	for (size_t i = 0; i < lengthof(unseen); i++)
	{
		if (c >= unseen[i].first && c <= unseen[i].last)
			return true;
	}
	return false;
}

static pg_wchar
fold(pg_wchar c)
{
	size_t low = 0;
	size_t high = lengthof(gn_fold_runs);

	/* Runs of a step of two interleave: several may begin in front of c. */
	while (low < high)
	{
		size_t middle = (low + high) / 2;

		if (gn_fold_runs[middle].first <= c)
			low = middle + 1;
		else
			high = middle;
	}
	for (size_t back = 0; back < 2 && low > back; back++)
	{
		const GnFoldRun *run = &gn_fold_runs[low - 1 - back];

		if (c <= run->last && (c - run->first) % run->step == 0)
			return (pg_wchar) ((int32) c + run->delta);
	}
	return c;
}

/* One "@" with something in front of it and a domain behind it. */
static bool
is_address(const pg_wchar *key, size_t len)
{
	size_t at = len;

	for (size_t i = 0; i < len; i++)
	{
		if (is_unseen(key[i]) ||
			(key[i] < 0x80 && strchr("()<>[],;:\\\"", (int) key[i])))
			return false;
		if (key[i] == '@')
		{
			if (at < len)
				return false;
			at = i;
		}
	}
	if (at == 0 || at + 1 >= len || key[at + 1] == '.' || key[len - 1] == '.')
		return false;
	for (size_t i = at + 1; i + 1 < len; i++)
	{
		if (key[i] == '.' && key[i + 1] == '.')
			return false;
	}
	return true;
}

/* palloc'd and zero-terminated, or NULL when there are more than max characters */
static pg_wchar *
decode(const char *text, size_t len, size_t max, size_t *count)
{
	const unsigned char *in = (const unsigned char *) text;
	pg_wchar *out;

	*count = pg_mbstrlen_with_len(text, (int) len);
	if (*count > max)
		return NULL;
	out = palloc((*count + 1) * sizeof(pg_wchar));
	for (size_t i = 0; i < *count; i++)
	{
		out[i] = utf8_to_unicode(in);
		in += pg_utf_mblen(in);
	}
	out[*count] = 0;
	return out;
}

static text *
encode(const pg_wchar *key, size_t count)
{
	text *result = palloc(VARHDRSZ + count * 4 + 1);
	unsigned char *out = (unsigned char *) VARDATA(result);

	for (size_t i = 0; i < count; i++)
	{
		unicode_to_utf8(key[i], out);
		out += pg_utf_mblen(out);
	}
	SET_VARSIZE(result, (char *) out - (char *) result);
	return result;
}

/*
 * SQL: _grownext.account_email_key(email text)
 *
 * NULL for what is no address.
 */
Datum
gn_account_email_key(PG_FUNCTION_ARGS)
{
	text *email = PG_GETARG_TEXT_PP(0);
	size_t count;
	pg_wchar *key =
		decode(VARDATA_ANY(email), VARSIZE_ANY_EXHDR(email), EMAIL_CHARACTERS, &count);

	if (key == NULL)
		PG_RETURN_NULL();
	key = unicode_normalize(UNICODE_NFKC, key);
	for (count = 0; key[count]; count++)
		key[count] = fold(key[count]);
	/* folding may undo the composition of a letter and its marks */
	key = unicode_normalize(UNICODE_NFKC, key);
	for (count = 0; key[count]; count++)
		;
	if (count > KEY_CHARACTERS || !is_address(key, count))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(encode(key, count));
}
