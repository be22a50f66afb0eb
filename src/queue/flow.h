/* src/queue/flow.h -- jobs that wait for others, and batches; private to the queue */
#ifndef GN_QUEUE_FLOW_H
#define GN_QUEUE_FLOW_H

#include "postgres.h"

#include "utils/array.h"

#include "queue/storage.h"

/*
 * Jobs are over, in this transaction, which has their rows: whoever waits for them is
 * looked after when it has committed. Run between gn_spi_begin and gn_spi_end.
 */
extern void gn_flow_over(const GnJob *jobs, int count, const char *state);

/* Of jobs that a caller names in depends_on those without an outcome, palloc'd; raises
 * when it may not depend on one. */
extern int64 *gn_flow_parents(Oid caller, ArrayType *depends_on, int *count);

/* A new job waits for these. Run between gn_spi_begin and gn_spi_end. */
extern void gn_flow_depend(int64 id, const int64 *parents, int count);

/* Keeps the batch open until the transaction ends; raises when the caller may not add
 * to it. */
extern void gn_flow_join(Oid caller, int64 batch_id);

/* The waiting job is the callback of a new batch. */
extern void gn_flow_new_batch(int64 id, const char *queue, const pg_uuid_t *tenant);

#endif
