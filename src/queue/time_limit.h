/* src/queue/time_limit.h -- how long a handler may take; private to the queue */
#ifndef GN_QUEUE_TIME_LIMIT_H
#define GN_QUEUE_TIME_LIMIT_H

#include "postgres.h"

/* Interrupts this process when so many milliseconds are over, again and again; a
 * handler that goes on loses its process. */
extern void gn_time_limit_start(int64 milliseconds);
extern void gn_time_limit_stop(void);

/* Forgets, or pretends, that it has happened. */
extern void gn_time_limit_clear(void);
extern void gn_time_limit_blame(void);

/* Whether that has happened since then, and whether the process ends of it. */
extern bool gn_time_limit_reached(void);
extern bool gn_time_limit_ends_process(void);

#endif
