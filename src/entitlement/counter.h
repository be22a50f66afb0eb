/* src/entitlement/counter.h -- one change of one counter, by tier; private to counters
 */
#ifndef GN_COUNTER_H
#define GN_COUNTER_H

#include "postgres.h"

#include "entitlement/counter_row.h"
#include "entitlement/usage.h"

typedef struct GnChange
{
	GnCounter counter;
	GnFeature feature;
	const GnAnswer *answer; /* by whose right; NULL: whatever is entitled */
	bool keeps_quota;       /* the answer is about another instant than now */
	int64 amount;           /* negative: gives back */
	bool absolute;          /* amount is what the counter is to say */
	bool folds;             /* what the soft tier left is to be counted */
	int64 limit;            /* used never passes it */
	TimestampTz at;
	/* what becomes of it */
	bool found;     /* there is such a counter: state is of meaning */
	int fired_from; /* thresholds above this one, */
	int fired_to;   /* and up to this one, were reached */
	GnCounterState state;
} GnChange;

/* Has what the answer rests on changed since? Takes messages. */
extern bool gn_change_moved(const GnChange *change);

/* Is there room, or are there units to give back, in a counter that says used? */
extern bool gn_change_fits(const GnChange *change, int64 used);

/* What row 0 says with a total is the result, be it granted or denied. */
extern void gn_change_describe(GnChange *change, const GnCounterRow *row, int64 used);

/* The quota that row 0 is to go by from now on. */
extern void gn_change_set_quota(const GnChange *change, GnCounterRow *row);
extern bool gn_change_has_quota(const GnChange *change, const GnCounterRow *row);

/* Counts the events of the soft tier, row 0 being locked; returns their units. */
extern int64 gn_counter_fold_events(const GnCounter *counter);

/* The tiers. */
extern GnCount gn_escrow_change(GnCounterTable *table, GnChange *change);
extern GnCount gn_soft_add(GnCounterTable *table, GnChange *change);

/* The counter changes in another way than by an event. */
extern void gn_soft_forget(const GnCounter *counter);

/* Notes in row 0, which is to be written, which thresholds a total reaches. */
extern void gn_threshold_note(GnChange *change, GnCounterRow *row, int64 used);

/* How far a counter may be used without reaching a threshold that has not fired. */
extern int64 gn_threshold_ceiling(const GnFeature *feature, const GnCounterRow *row);

/* Tells of what was noted: an audit event and a platform event for each. */
extern void gn_threshold_tell(const GnChange *change);

#endif
