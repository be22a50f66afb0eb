/*
 * src/jwt/claims.c
 *	  Registered claims, judged while they are read.
 *
 * Time claims are JSON numbers, finite and within the calendar: a string, null, NaN
 * or an infinity is no time. Everything is gathered in one pass and judged at its
 * end, so the verdict does not depend on the order of the claims.
 *
 * Pure: no server, no allocation, no raise.
 */
#include "postgres.h"

#include <math.h>
#include <string.h>

#include "jwt/jose.h"

/* 9999-12-31: no later time fits every calendar that will read it. */
#define LATEST_TIME 253402300799.0

typedef enum Claim
{
	CLAIM_OTHER,
	CLAIM_ISS,
	CLAIM_SUB,
	CLAIM_AUD,
	CLAIM_EXP,
	CLAIM_IAT,
	CLAIM_NBF,
} Claim;

typedef struct Judge
{
	const GnClaimRules *rules;
	const GnJsonReader *reader;
	Claim claim; /* whose value comes */
	GnClaimTimes times;
	bool has_expires;
	bool has_issued;
	bool unfit; /* a claim that can never be right */
	bool right_issuer;
	bool has_subject;
	bool has_audience;
	bool right_audience;
} Judge;

static Claim
claim_of(const char *name, size_t len)
{
	static const struct
	{
		char name[4];
		Claim claim;
	} known[] = {{"iss", CLAIM_ISS}, {"sub", CLAIM_SUB}, {"aud", CLAIM_AUD},
				 {"exp", CLAIM_EXP}, {"iat", CLAIM_IAT}, {"nbf", CLAIM_NBF}};

	for (size_t i = 0; len == 3 && i < lengthof(known); i++)
	{
		if (memcmp(known[i].name, name, 3) == 0)
			return known[i].claim;
	}
	return CLAIM_OTHER;
}

static bool
same_string(const char *text, size_t len, const char *expected)
{
	return strlen(expected) == len && memcmp(text, expected, len) == 0;
}

/* The text has passed gn_json_read: it is a number of at most 64 characters. */
static double
number(const char *text, size_t len)
{
	char copy[65];
	double value = 0;

	if (len <= 15 && text[0] != '-') /* digits alone, as nearly always */
	{
		size_t i;

		for (i = 0; i < len && text[i] >= '0' && text[i] <= '9'; i++)
			value = value * 10 + (text[i] - '0');
		if (i == len)
			return value;
	}
	memcpy(copy, text, len);
	copy[len] = '\0';
	return strtod(copy, NULL);
}

static void
judge_time(Judge *judge, GnJsonEvent event, const char *text, size_t len)
{
	double time = event == GN_JSON_NUMBER ? number(text, len) : -1;

	if (!isfinite(time) || time < 0 || time > LATEST_TIME)
	{
		judge->unfit = true;
		return;
	}
	if (judge->claim == CLAIM_EXP)
	{
		judge->times.expires = time;
		judge->has_expires = true;
	}
	else if (judge->claim == CLAIM_IAT)
	{
		judge->times.issued = time;
		judge->has_issued = true;
	}
	else
		judge->times.not_before = time;
}

/* A string, or an array of nothing but strings, one of which is expected. */
static void
judge_audience(Judge *judge, GnJsonEvent event, int depth, const char *text, size_t len)
{
	judge->has_audience = true;
	if (event == GN_JSON_STRING && depth <= 2)
		judge->right_audience |= same_string(text, len, judge->rules->audience);
	else if (depth != 1 || (event != GN_JSON_BEGIN_ARRAY && event != GN_JSON_END_ARRAY))
		judge->unfit = true;
}

static void
judge_value(Judge *judge, GnJsonEvent event, const char *text, size_t len)
{
	switch (judge->claim)
	{
		case CLAIM_ISS:
			judge->right_issuer =
				event == GN_JSON_STRING && same_string(text, len, judge->rules->issuer);
			break;
		case CLAIM_SUB:
			judge->has_subject = event == GN_JSON_STRING && len > 0;
			break;
		case CLAIM_EXP:
		case CLAIM_IAT:
		case CLAIM_NBF:
			if (event != GN_JSON_END_OBJECT && event != GN_JSON_END_ARRAY)
				judge_time(judge, event, text, len);
			break;
		default:
			break;
	}
}

static void
hear(void *arg, GnJsonEvent event, int depth, const char *text, size_t len)
{
	Judge *judge = arg;

	if (depth == 1 && event == GN_JSON_KEY)
		judge->claim = claim_of(text, len);
	else if (judge->claim == CLAIM_AUD && depth >= 1)
		judge_audience(judge, event, depth, text, len);
	else if (depth == 1)
		judge_value(judge, event, text, len);
	if (judge->reader)
		judge->reader->event(judge->reader->arg, event, depth, text, len);
}

GnJoseError
gn_claims_check_times(const GnClaimTimes *times, int64 now)
{
	double seconds = (double) now / 1e6;
	double leeway = (double) GN_JOSE_LEEWAY / 1e6;

	if (seconds >= times->expires + leeway)
		return GN_JOSE_EXPIRED;
	if (seconds + leeway < times->not_before || seconds + leeway < times->issued)
		return GN_JOSE_NOT_YET;
	return GN_JOSE_OK;
}

GnJoseError
gn_claims_check(const void *payload, size_t len, char *scratch,
				const GnClaimRules *rules, const GnJsonReader *reader,
				GnClaimTimes *times)
{
	Judge judge = {.rules = rules, .reader = reader};
	GnJsonReader ears = {.event = hear, .arg = &judge};

	if (!gn_json_read(payload, len, scratch, &ears) || judge.unfit ||
		!judge.has_expires || !judge.has_issued || !judge.has_subject)
		return GN_JOSE_CLAIMS;
	if (!judge.right_issuer)
		return GN_JOSE_ISSUER;
	if (!judge.has_audience || !judge.right_audience)
		return GN_JOSE_AUDIENCE;
	if (times)
		*times = judge.times;
	return gn_claims_check_times(&judge.times, rules->now);
}
