/*
 * src/jwt/strict_json.c
 *	  One pass over JSON that a stranger wrote.
 *
 * A token is read once: the same pass checks its form, judges its claims and builds
 * what is returned, so no two parsers can disagree about what it says. Duplicate
 * members are found by comparing each name with those of its object; a hash in front
 * keeps that cheap, and the number of members is bounded.
 *
 * Pure: no server, no allocation, no raise.
 */
#include "postgres.h"

#include <math.h>
#include <string.h>

#include "jwt/strict_json.h"

#define NUMBER_MAX 64
#define EXPONENT_MAX 5 /* with the letter and the sign: what numeric can hold */

typedef struct Member
{
	const char *name;
	uint32 len;
	uint32 hash;
} Member;

typedef struct Scan
{
	const uint8 *at;
	const uint8 *end;
	char *scratch;
	const GnJsonReader *reader;
	int depth;
	int member_count;
	int first_member[GN_JSON_MAX_DEPTH +
					 1]; /* of the object at each depth; -1: array */
	Member members[GN_JSON_MAX_MEMBERS];
} Scan;

static void
tell(const Scan *scan, GnJsonEvent event, int depth, const char *text, size_t len)
{
	if (scan->reader)
		scan->reader->event(scan->reader->arg, event, depth, text, len);
}

static void
skip_space(Scan *scan)
{
	while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\n' ||
									*scan->at == '\r' || *scan->at == '\t'))
		scan->at++;
}

static bool
take(Scan *scan, char c)
{
	skip_space(scan);
	if (scan->at == scan->end || *scan->at != (uint8) c)
		return false;
	scan->at++;
	return true;
}

/* How long the UTF-8 sequence of a byte above 127 is; 0: it is none (RFC 3629). */
static size_t
utf8_length(const uint8 *at, const uint8 *end)
{
	size_t left = (size_t) (end - at);

	if (at[0] >= 0xc2 && at[0] <= 0xdf)
		return left >= 2 && (at[1] & 0xc0) == 0x80 ? 2 : 0;
	if (at[0] >= 0xe0 && at[0] <= 0xef)
	{
		if (left < 3 || (at[1] & 0xc0) != 0x80 || (at[2] & 0xc0) != 0x80)
			return 0;
		if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f))
			return 0; /* overlong, surrogate */
		return 3;
	}
	if (at[0] >= 0xf0 && at[0] <= 0xf4)
	{
		if (left < 4 || (at[1] & 0xc0) != 0x80 || (at[2] & 0xc0) != 0x80 ||
			(at[3] & 0xc0) != 0x80)
			return 0;
		if ((at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f))
			return 0; /* overlong, beyond U+10FFFF */
		return 4;
	}
	return 0;
}

static int
hex_digit(uint8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits behind \u; -1: they are not there. */
static int
code_unit(Scan *scan)
{
	int unit = 0;

	if (scan->end - scan->at < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		int digit = hex_digit(*scan->at++);

		if (digit < 0)
			return -1;
		unit = unit << 4 | digit;
	}
	return unit;
}

/* Writes the character of \uXXXX, or of a pair; never longer than what it reads. */
static char *
decode_unicode(Scan *scan, char *out)
{
	int code = code_unit(scan);

	if (code <= 0 || (code >= 0xdc00 && code <= 0xdfff))
		return NULL;
	if (code >= 0xd800 && code <= 0xdbff)
	{
		int low;

		if (scan->end - scan->at < 2 || scan->at[0] != '\\' || scan->at[1] != 'u')
			return NULL;
		scan->at += 2;
		low = code_unit(scan);
		if (low < 0xdc00 || low > 0xdfff)
			return NULL;
		code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
		*out++ = (char) (0xf0 | code >> 18);
		*out++ = (char) (0x80 | (code >> 12 & 0x3f));
	}
	else if (code >= 0x800)
		*out++ = (char) (0xe0 | code >> 12);
	if (code >= 0x800)
		*out++ = (char) (0x80 | (code >> 6 & 0x3f));
	else if (code >= 0x80)
		*out++ = (char) (0xc0 | code >> 6);
	*out++ = (char) (code >= 0x80 ? 0x80 | (code & 0x3f) : code);
	return out;
}

static char *
decode_escape(Scan *scan, char *out)
{
	static const char plain[] = "\"\\/bfnrt";
	static const char meant[] = "\"\\/\b\f\n\r\t";
	const char *found;

	if (scan->at == scan->end || *scan->at == '\0')
		return NULL;
	if (*scan->at == 'u')
	{
		scan->at++;
		return decode_unicode(scan, out);
	}
	found = strchr(plain, *scan->at++);
	if (found == NULL)
		return NULL;
	*out++ = meant[found - plain];
	return out;
}

/*
 * How many of eight bytes stand before the first that is more than itself: a quote, a
 * backslash, a control character, or not ASCII. A borrow can only mark a byte behind
 * one that is marked rightly.
 */
static size_t
plain_bytes(const uint8 *at)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	uint64 word;
	uint64 quote;
	uint64 backslash;
	uint64 marks;

	memcpy(&word, at, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	quote = word ^ (ones * '"');
	backslash = word ^ (ones * '\\');
	marks = ((word - ones * 0x20) | (quote - ones) | (backslash - ones) | word) &
			(ones << 7);
	return marks ? (size_t) __builtin_ctzll(marks) / 8 : 8;
}

/* To the first byte that is more than itself, or close to the end. */
static void
skip_plain(Scan *scan)
{
	while (scan->end - scan->at >= 8)
	{
		size_t plain = plain_bytes(scan->at);

		scan->at += plain;
		if (plain < 8)
			break;
	}
}

/*
 * Behind the opening quote. Without escapes the string is where it stands; with one,
 * all of it goes to the scratch.
 */
static bool
read_string(Scan *scan, const char **text, size_t *len)
{
	const uint8 *run = scan->at; /* what is not copied yet */
	char *start = NULL;
	char *out = NULL;

	for (;;)
	{
		uint8 c;

		skip_plain(scan);
		if (scan->at == scan->end)
			return false;
		c = *scan->at;
		if (c >= 0x80)
		{
			size_t length = utf8_length(scan->at, scan->end);

			if (length == 0)
				return false;
			scan->at += length;
			continue;
		}
		if (c < 0x20)
			return false;
		if (c != '"' && c != '\\')
		{
			scan->at++;
			continue;
		}
		if (c == '"' && start == NULL)
			break;
		if (start == NULL)
			start = out = scan->scratch;
		memcpy(out, run, (size_t) (scan->at - run));
		out += scan->at - run;
		if (c == '"')
			break;
		scan->at++;
		out = decode_escape(scan, out);
		if (out == NULL)
			return false;
		run = scan->at;
	}
	*text = start ? start : (const char *) run;
	*len = start ? (size_t) (out - start) : (size_t) (scan->at - run);
	if (start)
		scan->scratch = out;
	scan->at++;
	return true;
}

static const uint8 *
skip_digits(const uint8 *at, const uint8 *end)
{
	while (at < end && *at >= '0' && *at <= '9')
		at++;
	return at;
}

/* No integer beyond 64 bits: compared as text, the digits having no leading zero. */
static bool
integer_fits(const char *digits, size_t len, bool negative)
{
	static const char *const limits[] = {"9223372036854775807", "9223372036854775808"};

	return len < 19 || (len == 19 && memcmp(digits, limits[negative], 19) <= 0);
}

static bool
real_fits(const char *text, size_t len)
{
	char copy[NUMBER_MAX + 1];

	memcpy(copy, text, len);
	copy[len] = '\0';
	return isfinite(strtod(copy, NULL)); /* the server's LC_NUMERIC is always C */
}

static bool
read_number(Scan *scan, const char **text, size_t *len)
{
	const uint8 *start = scan->at;
	const uint8 *digits = start + (*start == '-');
	const uint8 *at = skip_digits(digits, scan->end);
	size_t digit_count = (size_t) (at - digits);
	bool real = false;

	if (digit_count == 0 || (digit_count > 1 && *digits == '0'))
		return false;
	if (at < scan->end && *at == '.')
	{
		const uint8 *fraction = ++at;

		real = true;
		at = skip_digits(at, scan->end);
		if (at == fraction)
			return false;
	}
	if (at < scan->end && (*at == 'e' || *at == 'E'))
	{
		const uint8 *exponent = at++;
		const uint8 *first;

		real = true;
		if (at < scan->end && (*at == '+' || *at == '-'))
			at++;
		first = at;
		at = skip_digits(at, scan->end);
		if (at == first || at - exponent > EXPONENT_MAX)
			return false;
	}
	*text = (const char *) start;
	*len = (size_t) (at - start);
	scan->at = at;
	if (*len > NUMBER_MAX)
		return false;
	return real ? real_fits(*text, *len)
				: integer_fits((const char *) digits, digit_count, *start == '-');
}

static bool
read_word(Scan *scan, const char *word, GnJsonEvent event)
{
	size_t len = strlen(word);

	if ((size_t) (scan->end - scan->at) < len || memcmp(scan->at, word, len) != 0)
		return false;
	scan->at += len;
	tell(scan, event, scan->depth, NULL, 0);
	return true;
}

/* False: a second member of that name, or too many. */
static bool
remember_member(Scan *scan, const char *name, size_t len)
{
	Member member = {.name = name, .len = (uint32) len, .hash = 2166136261u};

	if (scan->member_count == GN_JSON_MAX_MEMBERS)
		return false;
	for (size_t i = 0; i < len; i++)
		member.hash = (member.hash ^ (uint8) name[i]) * 16777619u;
	for (int i = scan->first_member[scan->depth]; i < scan->member_count; i++)
	{
		const Member *other = &scan->members[i];

		if (other->hash == member.hash && other->len == len &&
			memcmp(other->name, name, len) == 0)
			return false;
	}
	scan->members[scan->member_count++] = member;
	return true;
}

static bool
read_key(Scan *scan)
{
	const char *name;
	size_t len;

	if (!take(scan, '"') || !read_string(scan, &name, &len) ||
		!remember_member(scan, name, len) || !take(scan, ':'))
		return false;
	tell(scan, GN_JSON_KEY, scan->depth, name, len);
	return true;
}

static bool
open_container(Scan *scan, bool object)
{
	if (scan->depth == GN_JSON_MAX_DEPTH)
		return false;
	tell(scan, object ? GN_JSON_BEGIN_OBJECT : GN_JSON_BEGIN_ARRAY, scan->depth, NULL,
		 0);
	scan->first_member[++scan->depth] = object ? scan->member_count : -1;
	return true;
}

static void
close_container(Scan *scan)
{
	bool object = scan->first_member[scan->depth] >= 0;

	if (object)
		scan->member_count = scan->first_member[scan->depth];
	scan->depth--;
	tell(scan, object ? GN_JSON_END_OBJECT : GN_JSON_END_ARRAY, scan->depth, NULL, 0);
}

/* A value's beginning; *opened says that it is a container, whose inside comes next. */
static bool
read_value(Scan *scan, bool *opened)
{
	const char *text;
	size_t len;

	skip_space(scan);
	*opened = false;
	if (scan->at == scan->end)
		return false;
	switch (*scan->at)
	{
		case '{':
		case '[':
			*opened = true;
			return open_container(scan, *scan->at++ == '{');
		case '"':
			scan->at++;
			if (!read_string(scan, &text, &len))
				return false;
			tell(scan, GN_JSON_STRING, scan->depth, text, len);
			return true;
		case 't':
			return read_word(scan, "true", GN_JSON_TRUE);
		case 'f':
			return read_word(scan, "false", GN_JSON_FALSE);
		case 'n':
			return read_word(scan, "null", GN_JSON_NULL);
		default:
			if (!read_number(scan, &text, &len))
				return false;
			tell(scan, GN_JSON_NUMBER, scan->depth, text, len);
			return true;
	}
}

/* From the inside of the outermost object to its end. */
static bool
read_containers(Scan *scan)
{
	bool fresh = true; /* nothing of the container has been read yet */

	while (scan->depth > 0)
	{
		bool object = scan->first_member[scan->depth] >= 0;

		if (take(scan, object ? '}' : ']'))
		{
			close_container(scan);
			fresh = false;
			continue;
		}
		if ((!fresh && !take(scan, ',')) || (object && !read_key(scan)) ||
			!read_value(scan, &fresh))
			return false;
	}
	return true;
}

bool
gn_json_read(const void *text, size_t len, char *scratch, const GnJsonReader *reader)
{
	Scan scan; /* its members are written before they are read */

	scan.at = text;
	scan.end = scan.at + len;
	scan.scratch = scratch;
	scan.reader = reader;
	scan.depth = 0;
	scan.member_count = 0;
	if (!take(&scan, '{') || !open_container(&scan, true) || !read_containers(&scan))
		return false;
	skip_space(&scan);
	return scan.at == scan.end;
}
