/* src/entitlement/credit.h -- balances of credit: what they are made of; private to
 * entitlement */
#ifndef GN_CREDIT_H
#define GN_CREDIT_H

#include "postgres.h"

#include "entitlement/entitlement.h"
#include "entitlement/usage.h"

/* A grant that is there. */
typedef struct GnCredit
{
	bool recurring; /* source is of meaning */
	bool rollover;
	bool unlimited;
	bool voided;
	pg_uuid_t source;
	int64 amount;
	int64 burnt;
	TimestampTz period_start; /* of meaning if recurring */
	TimestampTz expires_at;
} GnCredit;

/* A grant that is due and not there yet. */
typedef struct GnCreditDue
{
	bool rollover;
	bool unlimited;
	pg_uuid_t source;
	int64 amount;
	int priority;
	TimestampTz period_start;
	TimestampTz valid_from;
	TimestampTz expires_at;
} GnCreditDue;

/* Everything below runs between gn_spi_begin and gn_spi_end. */

/*
 * What the sources of an answer have to grant at an instant beside what they granted
 * already; memory is of the current context. fresh: the caller holds the balance's lock
 * and reads what was committed up to now.
 */
extern GnCreditDue *
gn_credit_due(const GnAnswer *answer, TimestampTz at, const GnCredit *credits,
			  int count, bool fresh, int *due_count);

/*
 * The grants of the balance that an answer is about, in force or counting against what
 * is due. burnt is that of the instant if as_of, else the latest.
 */
extern GnCredit *gn_credit_read(const GnAnswer *answer, TimestampTz at, bool as_of,
								bool fresh, int *count);

/* Lets balances decide the answers that are up to them. */
extern void gn_credit_answers(GnAnswer *answers, int count, const GnQuestion *question);

/* The same for one answer, from the grants there are and those due. */
extern void gn_credit_judge(GnAnswer *answer, TimestampTz at, const GnCredit *credits,
							int count, const GnCreditDue *due, int due_count);

/*
 * Burns call->amount of the answer's balance, all or nothing, for a reservation if the
 * call is one. False: the balance is another by now, ask anew.
 */
extern bool
gn_credit_consume(GnUsageCall *call, const GnAnswer *before, GnUsageResult *result);

/* Refunds the units that were burnt last; false: as above. */
extern bool
gn_credit_return(GnUsageCall *call, const GnAnswer *before, GnUsageResult *result);

/* Refunds units of a reservation; false if the balance is taken and wait is not. */
extern bool gn_credit_refund(const pg_uuid_t *holder, int feature, int64 amount,
							 const pg_uuid_t *reservation, TimestampTz at, bool wait);

#endif
