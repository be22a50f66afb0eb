/* src/core/spi.h -- prepared, qualified queries, run as the extension's owner */
#ifndef GN_SPI_H
#define GN_SPI_H

#include "postgres.h"

#include "executor/spi.h"

/*
 * A query of ours: fully qualified text with its argument types; the plan is
 * made at first use and kept. Define it static with GN_QUERY.
 */
#define GN_QUERY_MAX_ARGS 24

typedef struct GnQuery
{
	const char *sql;
	int nargs;
	Oid argtypes[GN_QUERY_MAX_ARGS];
	SPIPlanPtr plan;
} GnQuery;

#define GN_QUERY(text, ...)                                                            \
	{                                                                                  \
		.sql = (text), .nargs = (int) (sizeof((Oid[]){__VA_ARGS__}) / sizeof(Oid)),    \
		.argtypes = {                                                                  \
			__VA_ARGS__                                                                \
		}                                                                              \
	}
#define GN_QUERY_NOARGS(text)                                                          \
	{                                                                                  \
		.sql = (text)                                                                  \
	}

typedef struct GnSpi
{
	Oid user;
	int sec_context;
	int guc_level;
} GnSpi;

/*
 * Between begin and end the user is the extension's owner and search_path is
 * "pg_catalog, pg_temp". An error in between restores both through (sub)transaction
 * abort; end does it otherwise. What must outlive end is copied with SPI_palloc
 * or SPI_datumTransfer, or made in a context of the caller's.
 */
extern void gn_spi_begin(GnSpi *spi);
extern void gn_spi_end(GnSpi *spi);

/* Runs the query; returns SPI_processed, rows in SPI_tuptable. nulls as for SPI, or
 * NULL. */
extern uint64
gn_spi_execute(GnQuery *query, const Datum *values, const char *nulls, bool read_only);

/* The owner of the SQL objects; raises when the extension is missing or newer than the
 * library. */
extern Oid gn_extension_owner(void);

/* Raises as that does; costs nothing once it was found to be so. */
extern void gn_require_sql_version(void);

/* Its OID in this database, or InvalidOid. */
extern Oid gn_extension_oid(void);

extern void gn_spi_init(void); /* at load, once */

#endif
