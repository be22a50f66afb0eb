/* src/account/account.h -- users, login links and second factors */
#ifndef GN_ACCOUNT_H
#define GN_ACCOUNT_H

#include "postgres.h"

#include "core/component.h"

extern const GnComponent gn_account_component;

/* The key of this database from which one use of this component derives its own. */
extern void gn_account_key(const char *label, uint8 *key);

#endif
