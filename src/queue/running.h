/* src/queue/running.h -- what each executor runs now, for those who want to stop it or
 * see how far it is; private to the queue */
#ifndef GN_QUEUE_RUNNING_H
#define GN_QUEUE_RUNNING_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "queue/storage.h"

/* Bytes of a progress report. */
#define GN_MAX_PROGRESS 1024

extern Size gn_running_shmem_size(void);
extern void gn_running_shmem_init(void);

/* This executor has taken these jobs. */
extern void gn_running_take(const GnJob *jobs, int count);

/* Whether somebody wants to end one of them that was not begun yet; once. */
extern bool gn_running_asked(void);

/* It has one of them in hand, has done what could be interrupted, has none any more. */
extern void gn_running_begin(int64 id, TimestampTz started_at);
extern void gn_running_finish(void);
extern void gn_running_end(void);

/* The progress of the job in hand; seen by others at once, forgotten at its end. */
extern void gn_running_report(const Jsonb *progress);

/* What the executor of a job in this database reported, palloc'd, or NULL. */
extern Jsonb *gn_running_progress(int64 id);

/* Since when an executor has a job of this database in hand; 0: none has. */
extern TimestampTz gn_running_since(int64 id);

/*
 * Interrupts the handler of a job in this database; false when no executor has it in
 * hand. One that was asked often and goes on loses its process.
 */
extern bool gn_running_interrupt(int64 id);

#endif
