/* src/session/check.h -- whether a credential still counts; private to session */
#ifndef GN_SESSION_CHECK_H
#define GN_SESSION_CHECK_H

#include "postgres.h"

#include "utils/jsonb.h"

/* What the id of a registered client begins with. */
#define GN_CLIENT_ID_PREFIX "gnc_"

extern void gn_session_check_init(void); /* at load, once */

/* Raises NX013 unless the credential's session, client and subject are still there. */
extern void gn_session_check(const Jsonb *claims);

#endif
