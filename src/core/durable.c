/*
 * src/core/durable.c
 *	  What must be on disk before the outside world may know of it.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "storage/lwlock.h"

#include "core/core.h"

XLogRecPtr
gn_commit_position(TransactionId xid)
{
	XLogRecPtr position = InvalidXLogRecPtr;

	if (!TransactionIdIsNormal(xid) || TransactionIdIsCurrentTransactionId(xid))
		return position;
	/* of old ones the commit log may be gone, and they are long on disk */
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	if (TransactionIdFollowsOrEquals(xid, gn_oldest_clog_xid()))
		position = TransactionIdGetCommitLSN(xid);
	LWLockRelease(XactTruncationLock);
	return position;
}
