/*
 * src/account/step_up.c
 *	  Whether the caller signed in strongly and recently enough.
 *
 * Claims acr and auth_time of the bound caller are compared, nothing is looked up,
 * so that a row policy or a hot function may ask. Levels of assurance are ordered by
 * the table below; another acr value, as a foreign issuer has it, is met by itself
 * alone.
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "core/core.h"

GN_FUNCTION(gn_has_step_up);
GN_FUNCTION(gn_require_step_up);

#define LEEWAY 30 /* seconds that another issuer's clock may be ahead */
#define SHOWN_ACR 64

/* NIST SP 800-63: one factor, two factors, a factor in hardware. */
static const char *const levels[] = {"aal1", "aal2", "aal3"};

typedef struct Login
{
	const char *acr; /* NULL: the credential does not say */
	int acr_len;
	bool dated; /* whether age is known */
	double age; /* seconds since auth_time */
} Login;

static int
level_of(const char *acr, size_t len)
{
	for (size_t i = 0; i < lengthof(levels); i++)
	{
		if (strlen(levels[i]) == len && memcmp(levels[i], acr, len) == 0)
			return (int) i;
	}
	return -1;
}

/* acr points into the claims. */
static Login
login_of(const Jsonb *claims)
{
	Login login = {0};
	JsonbValue space;
	const JsonbValue *value = gn_jsonb_field(claims, "acr", &space);

	if (value && value->type == jbvString)
	{
		login.acr = value->val.string.val;
		login.acr_len = value->val.string.len;
	}
	value = gn_jsonb_field(claims, "auth_time", &space);
	if (value && value->type == jbvNumeric)
	{
		/* out of a double's range it becomes infinite, and is refused below */
		double at =
			DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											   NumericGetDatum(value->val.numeric)));
		double now = (double) gn_now() / USECS_PER_SEC +
					 (double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;

		login.age = now - at;
		login.dated = isfinite(login.age);
	}
	return login;
}

static bool
acr_suffices(const Login *login, text *needed)
{
	const char *wanted = VARDATA_ANY(needed);
	int wanted_len = (int) VARSIZE_ANY_EXHDR(needed);
	int level;

	if (login->acr == NULL)
		return false;
	if (login->acr_len == wanted_len && memcmp(login->acr, wanted, wanted_len) == 0)
		return true;
	level = level_of(wanted, wanted_len);
	return level >= 0 && level_of(login->acr, login->acr_len) > level;
}

static bool
age_suffices(const Login *login, double max_age)
{
	return login->dated && login->age <= max_age && login->age >= -LEEWAY;
}

/* In seconds, months of 30 days. */
static double
seconds_of(const Interval *max_age)
{
	double seconds =
		((double) max_age->month * DAYS_PER_MONTH + max_age->day) * SECS_PER_DAY +
		(double) max_age->time / USECS_PER_SEC;

	if (seconds < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("max_age must not be negative")));
	return seconds;
}

/* What is asked for; at least one of both. */
static void
arguments(FunctionCallInfo fcinfo, text **acr, double *max_age)
{
	*acr = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	*max_age = PG_ARGISNULL(1) ? -1 : seconds_of(PG_GETARG_INTERVAL_P(1));
	if (*acr == NULL && PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("acr and max_age must not both be null")));
}

/* SQL: grownext.has_step_up(acr text, max_age interval) */
Datum
gn_has_step_up(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();
	text *acr;
	double max_age;
	Login login;

	arguments(fcinfo, &acr, &max_age);
	if (context == NULL)
		PG_RETURN_NULL();
	login = login_of(context->claims);
	PG_RETURN_BOOL((acr == NULL || acr_suffices(&login, acr)) &&
				   (max_age < 0 || age_suffices(&login, max_age)));
}

/* "acr "aal2" and a login at most 300 seconds ago" */
static char *
needed_text(text *acr, double max_age)
{
	char *level = acr ? psprintf("acr \"%s\"", text_to_cstring(acr)) : "";
	char *age =
		max_age < 0 ? "" : psprintf("a login at most %.0f seconds ago", max_age);

	return psprintf("%s%s%s", level, *level && *age ? " and " : "", age);
}

static char *
given_text(const Login *login)
{
	char *level =
		login->acr == NULL
			? "no acr"
			: psprintf("acr \"%s\"",
					   pnstrdup(login->acr,
								pg_mbcliplen(login->acr, login->acr_len, SHOWN_ACR)));

	if (!login->dated)
		return psprintf("%s and no time of a login", level);
	if (login->age < -LEEWAY)
		return psprintf("%s and a login in the future", level);
	return psprintf("%s and a login %.0f seconds ago", level, Max(login->age, 0));
}

/* SQL: grownext.require_step_up(acr text, max_age interval) */
Datum
gn_require_step_up(PG_FUNCTION_ARGS)
{
	const GnContext *context = gn_context();
	text *acr;
	double max_age;
	Login login;

	arguments(fcinfo, &acr, &max_age);
	if (context == NULL)
		ereport(ERROR, (errcode(GN_ERRCODE_NO_CONTEXT),
						errmsg("no caller is bound to this transaction")));
	login = login_of(context->claims);
	if ((acr == NULL || acr_suffices(&login, acr)) &&
		(max_age < 0 || age_suffices(&login, max_age)))
		PG_RETURN_VOID();
	ereport(ERROR,
			(errcode(GN_ERRCODE_STEP_UP_REQUIRED),
			 errmsg("a fresher or stronger login is needed"),
			 errdetail("Needed: %s. The credential has %s.", needed_text(acr, max_age),
					   given_text(&login)),
			 errhint("Verify a second factor with "
					 "grownext.session_step_up(code) and use the access token that it "
					 "returns, or sign in again.")));
}
