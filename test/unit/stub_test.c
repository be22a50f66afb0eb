/* test/unit/stub_test.c -- what tests and fuzz targets rely on when they build without
 * the server */
#include "postgres.h"

#include "tap.h"

static void
refuse(int code)
{
	ereport(ERROR, (errcode(code), errmsg("refused: %d", code)));
}

int
main(void)
{
	char *text = pnstrdup("abcdef", 3);

	is_str(text, "abc", "pnstrdup copies so many bytes and ends the string");
	ok(*(char *) palloc0(1) == 0, "palloc0 clears");
	pfree(text);
	stub_reset();
	ok(stub_chunks.next == &stub_chunks, "a reset frees what is left");
	ok(STUB_TRY((void) 0), "a statement that raises nothing comes through");
	ok(!STUB_TRY(refuse(MAKE_SQLSTATE('N', 'X', '0', '1', '1'))), "an error does not");
	ok(stub_sqlstate == MAKE_SQLSTATE('N', 'X', '0', '1', '1'), "and leaves its code");
	return tap_done();
}
