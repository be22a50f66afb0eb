/* src/queue/residue.h -- what the code of a job leaves in its transaction and session;
 * private to the queue */
#ifndef GN_QUEUE_RESIDUE_H
#define GN_QUEUE_RESIDUE_H

#include "postgres.h"

/* What cannot be undone before the transaction ends. */
#define GN_RESIDUE_TEMPORARY                                                           \
	0x01                        /* tables, or other objects of the session's schema    \
								 */
#define GN_RESIDUE_LOCKS 0x02   /* advisory ones */
#define GN_RESIDUE_NOTICES 0x04 /* NOTIFY */

/* A job begins; its code has ended. */
extern void gn_residue_begin(void);
extern int gn_residue_end(void);

/* Between transactions, after an error too. */
extern void gn_residue_clear_session(bool temporary);

/* Whether a job's code has used advisory locks since it began. */
extern bool gn_residue_has_locks(void);

#endif
