/* src/core/compat.h -- what differs between PostgreSQL 15 and 18; the only file that
 * names PG_VERSION_NUM */
#ifndef GN_COMPAT_H
#define GN_COMPAT_H

#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/guc.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "grownext supports PostgreSQL 15 to 18"
#endif

/* 16 (089480c) gave PGDLLEXPORT default visibility; on 15 it is empty, and we build
 * with -fvisibility=hidden. */
#if PG_VERSION_NUM < 160000
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

/* Declares a function that SQL may call: a visible prototype and its info record. */
#define GN_FUNCTION(name)                                                              \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS);                                   \
	PG_FUNCTION_INFO_V1(name)

/* 18 (9324c8c) lets a module state its name and version. */
#if PG_VERSION_NUM >= 180000
#define GN_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "grownext", .version = GN_VERSION)
#else
#define GN_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* 16 (407b50f) moved settings' memory from malloc to guc_malloc; "extra" must come from
 * there. */
#if PG_VERSION_NUM >= 160000
#define gn_guc_malloc(size) guc_malloc(LOG, size)
#else
#define gn_guc_malloc(size) malloc(size)
#endif

/* 16 (e5efa08) added a flag that refuses RESET of one setting. */
#if PG_VERSION_NUM >= 160000
#define GN_GUC_NO_RESET GUC_NO_RESET
#else
#define GN_GUC_NO_RESET 0
#endif

/* 17 (af0e7de) named extensions' wait events; before, all share one. */
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#define gn_wait_event(name) WaitEventExtensionNew(name)
#else
#include "utils/wait_event.h"
#define gn_wait_event(name) PG_WAIT_EXTENSION
#endif

/* 18 (14e87ff) lets primary keys be deferrable; none of ours is. */
#include "utils/relcache.h"
#if PG_VERSION_NUM >= 180000
#define gn_primary_key_index(table) RelationGetPrimaryKeyIndex(table, false)
#else
#define gn_primary_key_index(table) RelationGetPrimaryKeyIndex(table)
#endif

/* 16 (19d8e23) lets a HOT update insert into summarizing indexes only. */
#if PG_VERSION_NUM >= 160000
#define gn_insert_index_tuples(target, slot, state)                                    \
	ExecInsertIndexTuples(target, slot, state, false, false, NULL, NIL, false)
#else
#define gn_insert_index_tuples(target, slot, state)                                    \
	ExecInsertIndexTuples(target, slot, state, false, false, NULL, NIL)
#endif

/* 16 (a61b1f7) moved what a query may do to its relations out of the range table. */
#if PG_VERSION_NUM >= 160000
#define GN_CHECK_PERMS_PARAMETERS                                                      \
	List *range_table, List *permissions, bool raise_on_violation
#define GN_CHECK_PERMS_ARGUMENTS range_table, permissions, raise_on_violation
#define GN_CHECK_PERMS_LIST permissions
#define GnPermissionInfo RTEPermissionInfo
#else
#define GN_CHECK_PERMS_PARAMETERS List *range_table, bool raise_on_violation
#define GN_CHECK_PERMS_ARGUMENTS range_table, raise_on_violation
#define GN_CHECK_PERMS_LIST range_table
#define GnPermissionInfo RangeTblEntry
#endif

/* 16 (c727f51) folded the per-catalogue privilege checks into one. */
#if PG_VERSION_NUM >= 160000
#define gn_proc_aclcheck(function, role)                                               \
	object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE)
#else
#define gn_proc_aclcheck(function, role) pg_proc_aclcheck(function, role, ACL_EXECUTE)
#endif

/* 16 (3d14e17) made SET ROLE an option of membership. */
#if PG_VERSION_NUM >= 160000
#define gn_can_set_role(member, role) member_can_set_role(member, role)
#else
#define gn_can_set_role(member, role) is_member_of_role(member, role)
#endif

/* 17 (51efe38) gave transactions a time limit that ends the process. */
#if PG_VERSION_NUM >= 170000
#include "utils/timeout.h"
#define gn_stop_transaction_timeout() disable_timeout(TRANSACTION_TIMEOUT, false)
#define gn_transaction_timed_out() get_timeout_indicator(TRANSACTION_TIMEOUT, false)
#else
#define gn_stop_transaction_timeout() ((void) 0)
#define gn_transaction_timed_out() false
#endif

/* 17 (ab35582) moved the local transaction id into a struct of its own. */
#if PG_VERSION_NUM >= 170000
#define gn_local_transaction() (MyProc->vxid.lxid)
#else
#define gn_local_transaction() (MyProc->lxid)
#endif

/* 17 (024c521) numbers backends by their place among processes, from 0. */
#if PG_VERSION_NUM >= 170000
#define gn_my_backend() (MyProcNumber)
#define gn_backend_of(vxid) ((vxid).procNumber)
#else
#define gn_my_backend() (MyBackendId - 1)
#define gn_backend_of(vxid) ((vxid).backendId - 1)
#endif

/* 17 (d86d20f) renamed the variables of transaction ids. */
#include "access/transam.h"
#if PG_VERSION_NUM >= 170000
#define gn_oldest_clog_xid() (TransamVariables->oldestClogXid)
#else
#define gn_oldest_clog_xid() (ShmemVariableCache->oldestClogXid)
#endif

/* 18 replaced this attribute by pg_noreturn, which stands first. */
#if PG_VERSION_NUM >= 180000
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

/* 18 (a0ed19e) turned IsBackgroundWorker into a macro; the backend type is there on
 * all. */
#define gn_in_background_worker() (MyBackendType == B_BG_WORKER)

/* 16 (afbfc02) replaced the ownership checks by one. */
#if PG_VERSION_NUM >= 160000
#define gn_is_database_owner(database, role)                                           \
	object_ownercheck(DatabaseRelationId, (database), (role))
#else
#define gn_is_database_owner(database, role) pg_database_ownercheck((database), (role))
#endif

/* 17 (1c99cde) lets the caller keep the lexer on its stack. */
#if PG_VERSION_NUM >= 170000
#define gn_json_lexer(text, length)                                                    \
	makeJsonLexContextCstringLen(NULL, text, length, PG_UTF8, true)
#else
#define gn_json_lexer(text, length)                                                    \
	makeJsonLexContextCstringLen(unconstify(char *, text), (int) (length), PG_UTF8,    \
								 true)
#endif

/* 18 renamed the mark of a background worker and turned it around. */
#if PG_VERSION_NUM >= 180000
#define gn_serves_client(proc) ((proc)->isRegularBackend)
#else
#define gn_serves_client(proc) (!(proc)->isBackgroundWorker)
#endif

/* 16 (b0a55e4) renamed what says where a relation's file is, 17 (024c521) the number of
 * no backend. */
#if PG_VERSION_NUM >= 160000
#include "storage/relfilelocator.h"
#define GnFileLocator RelFileLocator
#else
#include "storage/relfilenode.h"
#define GnFileLocator RelFileNode
#endif
#define gn_file_locator(tablespace, database, file)                                    \
	((GnFileLocator){(tablespace), (database), (file)})
#if PG_VERSION_NUM >= 170000
#define GN_NO_BACKEND INVALID_PROC_NUMBER
#else
#define GN_NO_BACKEND InvalidBackendId
#endif

/* 18 (5983a4c) keeps what deforming needs of a column in a second place. */
#if PG_VERSION_NUM >= 180000
#define gn_attribute_filled(desc, i) populate_compact_attribute(desc, i)
#else
#define gn_attribute_filled(desc, i) ((void) 0)
#endif

/* 16 (19d8e23) tells which indexes an update has to serve. Never waits unless told to.
 */
#if PG_VERSION_NUM >= 160000
#define gn_heap_update(relation, tid, tuple, wait, failure)                            \
	heap_update(relation, tid, tuple, GetCurrentCommandId(true), InvalidSnapshot,      \
				wait, failure, &(LockTupleMode){0}, &(TU_UpdateIndexes){0})
#else
#define gn_heap_update(relation, tid, tuple, wait, failure)                            \
	heap_update(relation, tid, tuple, GetCurrentCommandId(true), InvalidSnapshot,      \
				wait, failure, &(LockTupleMode){0})
#endif

/* 18 (0fbceae) lets index scans be counted. */
#if PG_VERSION_NUM >= 180000
#define gn_index_beginscan(heap, index, snapshot, nkeys)                               \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define gn_index_beginscan(heap, index, snapshot, nkeys)                               \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* libpq/libpq.h has it, with headers of GSSAPI that need not be installed. */
extern bool pq_check_connection(void);

#endif
