/*
 * src/entitlement/threshold.c
 *	  Thresholds: a counter tells once when it reaches a percentage of its quota.
 *
 * Row 0 of a counter remembers the highest percentage that fired, so what fires once
 * per counter and period is a comparison of numbers under the row's lock, and a
 * rollback takes the memory back together with the event. Units that come back, and a
 * quota that is raised, do not make a threshold fire again in the same period.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/builtins.h"

#include "core/core.h"
#include "entitlement/counter.h"

/* The first number of units that reaches a percentage, rounded up. */
static int64
units_of(int64 quota, int percent)
{
	int64 whole;
	int64 units;

	if (pg_mul_s64_overflow(quota / 100, percent, &whole) ||
		pg_add_s64_overflow(whole, ((quota % 100) * percent + 99) / 100, &units))
		return PG_INT64_MAX;
	return units;
}

void
gn_threshold_note(GnChange *change, GnCounterRow *row, int64 used)
{
	const GnFeature *feature = &change->feature;

	change->fired_from = change->fired_to = row->fired;
	if (row->unlimited || row->quota == 0)
		return;
	for (int i = 0; i < feature->threshold_count; i++)
	{
		if (feature->thresholds[i] > row->fired &&
			used >= units_of(row->quota, feature->thresholds[i]))
			change->fired_to = feature->thresholds[i];
	}
	row->fired = change->fired_to;
}

int64
gn_threshold_ceiling(const GnFeature *feature, const GnCounterRow *row)
{
	if (row->unlimited || row->quota == 0)
		return PG_INT64_MAX;
	for (int i = 0; i < feature->threshold_count; i++)
	{
		if (feature->thresholds[i] > row->fired)
			return units_of(row->quota, feature->thresholds[i]) - 1;
	}
	return PG_INT64_MAX;
}

static void
tell(const GnChange *change, int percent)
{
	static GnQuery query = GN_QUERY(
		"SELECT _grownext.entitlement_threshold_tell($1, $2, $3, $4, $5, $6, $7, $8)",
		UUIDOID, TEXTOID, INT4OID, INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID,
		TIMESTAMPTZOID);
	Datum values[8] = {UUIDPGetDatum(&change->counter.tenant),
					   CStringGetTextDatum(change->feature.name),
					   Int32GetDatum(percent),
					   Int64GetDatum(change->state.used),
					   Int64GetDatum(change->state.quota),
					   CStringGetTextDatum(gn_period_name(change->counter.period)),
					   TimestampTzGetDatum(change->counter.start),
					   TimestampTzGetDatum(change->state.end)};
	GnSpi spi;

	gn_spi_begin(&spi);
	gn_spi_execute(&query, values, NULL, false);
	gn_spi_end(&spi);
}

void
gn_threshold_tell(const GnChange *change)
{
	const GnFeature *feature = &change->feature;

	for (int i = 0; i < feature->threshold_count; i++)
	{
		if (feature->thresholds[i] > change->fired_from &&
			feature->thresholds[i] <= change->fired_to)
			tell(change, feature->thresholds[i]);
	}
}
