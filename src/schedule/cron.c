/*
 * src/schedule/cron.c
 *	  Reads cron expressions.
 *
 * Five fields (minute, hour, day of month, month, day of week) or six (second first),
 * or a macro. Everything that could silently mean something else than its writer
 * thinks is refused: ranges that run backwards, steps beyond the field, dates that
 * never come.
 */
#include "postgres.h"

#include "schedule/cron.h"

typedef struct Field
{
	const char *name;
	int low;
	int high;
	const char *const *names; /* three letters each, the first one means low */
	int name_count;
} Field;

static const char *const month_names[] = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
										  "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};
static const char *const weekday_names[] = {"SUN", "MON", "TUE", "WED",
											"THU", "FRI", "SAT"};

enum
{
	SECOND,
	MINUTE,
	HOUR,
	DAY,
	MONTH,
	WEEKDAY,
	FIELDS
};

static const Field fields[FIELDS] = {
	{"second", 0, 59, NULL, 0},
	{"minute", 0, 59, NULL, 0},
	{"hour", 0, 23, NULL, 0},
	{"day of month", 1, 31, NULL, 0},
	{"month", 1, 12, month_names, lengthof(month_names)},
	{"day of week", 0, 7, weekday_names, lengthof(weekday_names)},
};

typedef struct Reader
{
	const char *at;
	const char *end;
	const Field *field;
	GnCron *cron;
	uint64 bits; /* of the field, so far */
	bool step;   /* one was seen */
	GnCronError *error;
} Reader;

static bool
refuse(Reader *r, const char *reason)
{
	r->error->field = r->field ? r->field->name : NULL;
	r->error->reason = reason;
	return false;
}

static bool
is_space(char c)
{
	return c == ' ' || c == '\t';
}

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static char
upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char) (c - 'a' + 'A') : c;
}

/* Takes one character, in either case. */
static bool
take(Reader *r, char c)
{
	if (r->at == r->end || upper(*r->at) != c)
		return false;
	r->at++;
	return true;
}

/* A number of up to nine digits; -1 if there is none. */
static int
take_number(Reader *r)
{
	int value = 0;
	int digits = 0;

	while (r->at < r->end && is_digit(*r->at) && digits < 9)
	{
		value = value * 10 + (*r->at++ - '0');
		digits++;
	}
	return digits > 0 ? value : -1;
}

/* One of the field's names; -1 if there is none. */
static int
take_name(Reader *r)
{
	for (int i = 0; i < r->field->name_count && r->end - r->at >= 3; i++)
	{
		const char *name = r->field->names[i];

		if (upper(r->at[0]) == name[0] && upper(r->at[1]) == name[1] &&
			upper(r->at[2]) == name[2])
		{
			r->at += 3;
			return r->field->low + i;
		}
	}
	return -1;
}

static bool
take_value(Reader *r, int *value)
{
	if (r->at == r->end)
		return refuse(r, "a value is missing");
	*value = is_digit(*r->at) ? take_number(r) : take_name(r);
	if (*value < 0)
		return refuse(r, r->field->names
							 ? "expected a number or a name of three letters"
							 : "expected a number");
	if (*value < r->field->low || *value > r->field->high)
		return refuse(r, "a value is out of range");
	return true;
}

/* "/n" behind a range. */
static bool
take_step(Reader *r, int *step)
{
	int span = r->field->high - r->field->low + (r->field == &fields[WEEKDAY] ? 0 : 1);

	*step = 1;
	if (!take(r, '/'))
		return true;
	*step = take_number(r);
	if (*step < 1)
		return refuse(r, "a step must be a positive number");
	if (*step > span)
		return refuse(r, "a step is longer than the field");
	r->step = true;
	return true;
}

static void
add_range(Reader *r, int low, int high, int step)
{
	for (int value = low; value <= high; value += step)
	{
		/* 7 is another name of Sunday */
		if (r->field == &fields[WEEKDAY] && value == 7)
			r->bits |= 1;
		else
			r->bits |= UINT64CONST(1) << value;
	}
}

/* "L" or "L-n" among the days of the month. */
static bool
read_last_day(Reader *r)
{
	int before = 0;

	if (take(r, '-'))
	{
		before = take_number(r);
		if (before < 1 || before > 30)
			return refuse(r, "L-n takes 1 to 30 days");
	}
	r->cron->days_before_last |= (uint32) 1 << before;
	return true;
}

/* What may follow a weekday: "#n", "#L" or "L"; *done if one did. */
static bool
read_nth_weekday(Reader *r, int weekday, bool *done)
{
	int nth;

	*done = true;
	weekday %= 7;
	if (take(r, 'L'))
	{
		r->cron->last_weekdays |= (uint32) 1 << weekday;
		return true;
	}
	if (!take(r, '#'))
	{
		*done = false;
		return true;
	}
	if (take(r, 'L'))
	{
		r->cron->last_weekdays |= (uint32) 1 << weekday;
		return true;
	}
	nth = take_number(r);
	if (nth < 1 || nth > 5)
		return refuse(r, "# takes 1 to 5, or L for the last");
	r->cron->nth_weekdays[nth] |= (uint32) 1 << weekday;
	return true;
}

/* "a", "a-b", either with "/n". */
static bool
read_values(Reader *r)
{
	int low;
	int high;
	int step;
	bool done;

	if (!take_value(r, &low))
		return false;
	if (r->field == &fields[WEEKDAY])
	{
		if (!read_nth_weekday(r, low, &done))
			return false;
		if (done)
			return true;
	}
	high = low;
	if (take(r, '-'))
	{
		bool named = r->at < r->end && !is_digit(*r->at);

		if (!take_value(r, &high))
			return false;
		if (named && high == 0 && low > 0)
			high = 7; /* FRI-SUN */
		if (high < low)
			return refuse(r, "a range runs backwards");
	}
	else if (r->at < r->end && *r->at == '/')
	{
		if (r->field == &fields[WEEKDAY])
			low %= 7;
		high = r->field == &fields[WEEKDAY] ? 6 : r->field->high;
	}
	if (!take_step(r, &step))
		return false;
	add_range(r, low, high, step);
	return true;
}

static bool
read_item(Reader *r)
{
	int step;
	bool days = r->field == &fields[DAY] || r->field == &fields[WEEKDAY];

	if (take(r, '*') || (days && take(r, '?')))
	{
		if (!take_step(r, &step))
			return false;
		add_range(r, r->field->low, r->field == &fields[WEEKDAY] ? 6 : r->field->high,
				  step);
		return true;
	}
	if (r->field == &fields[DAY] && take(r, 'L'))
		return read_last_day(r);
	return read_values(r);
}

/* A whole field: items with commas between. */
static bool
read_field(Reader *r)
{
	r->bits = 0;
	r->step = false;
	do
	{
		if (!read_item(r))
			return false;
	} while (take(r, ','));
	if (r->at < r->end)
		return refuse(r, "something is left over behind a value");
	return true;
}

static void
store_field(const Reader *r, int number, char first)
{
	GnCron *cron = r->cron;
	bool any = first == '*' || first == '?';

	switch (number)
	{
		case SECOND:
			cron->seconds = r->bits;
			break;
		case MINUTE:
			cron->minutes = r->bits;
			break;
		case HOUR:
			cron->hours = (uint32) r->bits;
			cron->interval = any || r->step || cron->hours == (1 << 24) - 1;
			break;
		case DAY:
			cron->days = (uint32) r->bits;
			cron->any_day = any;
			break;
		case MONTH:
			cron->months = (uint32) r->bits;
			break;
		default:
			cron->weekdays = (uint32) r->bits;
			cron->any_weekday = any;
			break;
	}
}

static bool
read_fields(const char *text, const char *end, GnCron *cron, GnCronError *error)
{
	const char *starts[FIELDS + 1];
	const char *ends[FIELDS + 1];
	int count = 0;
	Reader r = {.cron = cron, .error = error};

	while (text < end && count <= FIELDS)
	{
		starts[count] = text;
		while (text < end && !is_space(*text))
			text++;
		ends[count++] = text;
		while (text < end && is_space(*text))
			text++;
	}
	if (count != FIELDS && count != FIELDS - 1)
		return refuse(&r, "there must be five fields, or six with seconds");
	cron->seconds = 1;
	for (int i = 0; i < count; i++)
	{
		int number = i + FIELDS - count;

		r.field = &fields[number];
		r.at = starts[i];
		r.end = ends[i];
		if (!read_field(&r))
			return false;
		store_field(&r, number, *starts[i]);
	}
	r.field = NULL;
	if (!gn_cron_possible(cron))
		return refuse(&r, "no date ever matches it");
	return true;
}

/* "@every 1h30m": days, hours, minutes and seconds, each at most once, in that order.
 */
static bool
read_every(Reader *r)
{
	static const struct
	{
		char unit;
		int64 seconds;
	} units[] = {{'D', 86400}, {'H', 3600}, {'M', 60}, {'S', 1}};
	size_t next = 0;

	while (r->at < r->end && is_space(*r->at))
		r->at++;
	if (r->at == r->end)
		return refuse(r, "@every needs a time, such as 30s or 1h30m");
	while (r->at < r->end)
	{
		int number = take_number(r);
		size_t i = next;

		if (number < 0)
			return refuse(r, "@every takes numbers with the units d, h, m and s");
		while (i < lengthof(units) && !take(r, units[i].unit))
			i++;
		if (i == lengthof(units))
			return refuse(r, "@every takes the units d, h, m and s, in this order");
		r->cron->every += number * units[i].seconds;
		next = i + 1;
	}
	if (r->cron->every < 1 || r->cron->every > GN_CRON_MAX_EVERY)
		return refuse(r, "@every takes one second to 366 days");
	return true;
}

/* The name of a macro, in any case. */
static bool
is_macro(const Reader *r, const char *name)
{
	size_t length = strlen(name);

	if ((size_t) (r->end - r->at) < length)
		return false;
	for (size_t i = 0; i < length; i++)
	{
		if (upper(r->at[i]) != upper(name[i]))
			return false;
	}
	return true;
}

static bool
read_macro(Reader *r)
{
	static const struct
	{
		const char *name;
		const char *fields;
	} macros[] = {
		{"@yearly", "0 0 1 1 *"},  {"@annually", "0 0 1 1 *"},
		{"@monthly", "0 0 1 * *"}, {"@weekly", "0 0 * * 0"},
		{"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
		{"@hourly", "0 * * * *"},
	};

	for (size_t i = 0; i < lengthof(macros); i++)
	{
		const char *expression = macros[i].fields;

		if (is_macro(r, macros[i].name) &&
			(size_t) (r->end - r->at) == strlen(macros[i].name))
			return read_fields(expression, expression + strlen(expression), r->cron,
							   r->error);
	}
	if (is_macro(r, "@every") && (r->end - r->at == (ptrdiff_t) strlen("@every") ||
								  is_space(r->at[strlen("@every")])))
	{
		r->at += strlen("@every");
		return read_every(r);
	}
	return refuse(r, "unknown macro");
}

bool
gn_cron_parse(const char *text, size_t length, GnCron *cron, GnCronError *error)
{
	Reader r = {.at = text, .end = text + length, .cron = cron, .error = error};

	*cron = (GnCron){0};
	*error = (GnCronError){0};
	if (length > GN_CRON_MAX_LENGTH)
		return refuse(&r, "it is too long");
	while (r.at < r.end && is_space(*r.at))
		r.at++;
	while (r.at < r.end && is_space(r.end[-1]))
		r.end--;
	if (r.at == r.end)
		return refuse(&r, "it is empty");
	if (*r.at == '@')
		return read_macro(&r);
	return read_fields(r.at, r.end, cron, error);
}
