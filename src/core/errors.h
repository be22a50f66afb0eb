/* src/core/errors.h -- the SQLSTATE registry of class NX; docs/errors.md is checked
 * against it */
#ifndef GN_ERRORS_H
#define GN_ERRORS_H

#include "postgres.h"

/*
 * name, the three characters after "NX", HTTP status (0: never reaches a
 * gateway), meaning. Class NX is ours: classes that begin with 0-4 or A-H are
 * reserved to the SQL standard.
 */
#define GN_ERROR_REGISTRY(X)                                                           \
	X(NOT_PRELOADED, '0', '0', '1', 503,                                               \
	  "needs shared_preload_libraries = 'grownext'")                                   \
	X(OUTBOUND_FENCED, '0', '0', '2', 503, "this database is fenced: nothing may act") \
	X(NOT_CONFIGURED, '0', '0', '3', 503, "something has to be set up first")          \
	X(SQL_VERSION, '0', '0', '4', 503, "library and SQL objects do not fit together")  \
	X(NO_CONTEXT, '0', '1', '0', 401, "no caller is bound to this transaction")        \
	X(TOKEN_INVALID, '0', '1', '1', 401, "a token is malformed, forged or not for us") \
	X(TOKEN_EXPIRED, '0', '1', '2', 401, "a token is past its time")                   \
	X(SESSION_REVOKED, '0', '1', '3', 401, "the token's session was revoked")          \
	X(SCOPE_MISSING, '0', '1', '4', 403, "the credential lacks a scope")               \
	X(STEP_UP_REQUIRED, '0', '1', '5', 401, "a fresher or stronger login is needed")   \
	X(KEY_UNAVAILABLE, '0', '1', '6', 503, "no usable key for the purpose")            \
	X(MASTER_KEY_MISSING, '0', '1', '7', 503, "the master key is missing or another")  \
	X(CLAIMS_HOOK_FAILED, '0', '1', '8', 500, "a profile's claims hook failed")        \
	X(NOT_ENTITLED, '0', '2', '0', 403, "the tenant is not entitled to a feature")     \
	X(QUOTA_EXCEEDED, '0', '2', '1', 402, "the quota of the period is used up")        \
	X(SEAT_LIMIT, '0', '2', '2', 402, "no seat is left")                               \
	X(TENANT_NOT_ACTIVE, '0', '2', '3', 403, "the tenant is suspended or closing")     \
	X(LAST_OWNER, '0', '2', '4', 409, "a tenant keeps at least one owner")             \
	X(QUEUE_PAUSED, '0', '3', '0', 503, "the queue is paused")                         \
	X(LEASE_STALE, '0', '3', '1', 409, "the job was handed to another worker")         \
	X(JOB_DISCARD, '0', '3', '2', 0, "raised by a handler: never try this job again")  \
	X(JOB_SNOOZE, '0', '3', '3', 0, "raised by a handler: try again later, uncharged") \
	X(IDEMPOTENCY_CONFLICT, '0', '4', '0', 409,                                        \
	  "same idempotency key, other arguments")                                         \
	X(RATE_LIMITED, '0', '4', '1', 429, "too many calls")                              \
	X(AUDIT_APPEND_ONLY, '0', '5', '0', 403, "the audit log cannot be changed")

#define GN_ERROR_ENUM(name, a, b, c, http, meaning)                                    \
	GN_ERRCODE_##name = MAKE_SQLSTATE('N', 'X', a, b, c),
enum GnErrorCode
{
	GN_ERROR_REGISTRY(GN_ERROR_ENUM)
};
#undef GN_ERROR_ENUM

#endif
