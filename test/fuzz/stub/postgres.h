/*
 * test/fuzz/stub/postgres.h
 *	  As much of the server as a pure parser needs, to build it without one.
 *
 * palloc'd memory lives until stub_reset(), as in a memory context; an ereport() of
 * ERROR jumps back into STUB_TRY. A file that needs more than this is not pure: split
 * the parser from what touches the server rather than growing the stub.
 */
#ifndef GN_STUB_POSTGRES_H
#define GN_STUB_POSTGRES_H

#include <assert.h>
#include <ctype.h>
#include <limits.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t uint8;
typedef uint16_t uint16;
typedef uint32_t uint32;
typedef uint64_t uint64;
typedef int8_t int8;
typedef int16_t int16;
typedef int32_t int32;
typedef int64_t int64;
typedef size_t Size;
typedef unsigned int Oid;

#define INT64CONST(x) INT64_C(x)
#define UINT64CONST(x) UINT64_C(x)
#define PG_INT64_MAX INT64_MAX
#define PG_INT64_MIN INT64_MIN
#define Assert(condition) assert(condition)
#define StaticAssertDecl(condition, message) _Static_assert(condition, message)
#define lengthof(array) (sizeof(array) / sizeof((array)[0]))
#define Min(x, y) ((x) < (y) ? (x) : (y))
#define Max(x, y) ((x) > (y) ? (x) : (y))
#define MaxAllocSize ((Size) 0x3fffffff)
#define PGDLLEXPORT
#define pg_nodiscard __attribute__((warn_unused_result))
#define pg_attribute_printf(f, a) __attribute__((format(printf, f, a)))
#define likely(x) __builtin_expect((x) != 0, 1)
#define unlikely(x) __builtin_expect((x) != 0, 0)

/* Memory: every allocation has a header that links it, and AddressSanitizer watches it.
 */
typedef struct StubChunk
{
	struct StubChunk *next, *prev;
	max_align_t data[];
} StubChunk;

static StubChunk stub_chunks = {&stub_chunks, &stub_chunks};

static inline void *
palloc(Size size)
{
	StubChunk *chunk;

	assert(size <= MaxAllocSize); /* the server would raise */
	chunk = malloc(sizeof(StubChunk) + size);
	assert(chunk);
	chunk->next = stub_chunks.next;
	chunk->prev = &stub_chunks;
	chunk->next->prev = chunk->prev->next = chunk;
	return chunk->data;
}

static inline void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

static inline void
pfree(void *pointer)
{
	StubChunk *chunk = (StubChunk *) ((char *) pointer - offsetof(StubChunk, data));

	chunk->next->prev = chunk->prev;
	chunk->prev->next = chunk->next;
	free(chunk);
}

static inline char *
pnstrdup(const char *text, Size length)
{
	char *copy = palloc(length + 1);

	memcpy(copy, text, length);
	copy[length] = '\0';
	return copy;
}

static inline char *
pstrdup(const char *text)
{
	return pnstrdup(text, strlen(text));
}

static inline void
stub_reset(void)
{
	while (stub_chunks.next != &stub_chunks)
		pfree(stub_chunks.next->data);
}

/* Errors: STUB_TRY { ... } is true when its statement came through without one. */
#define ERROR 21
#define MAKE_SQLSTATE(a, b, c, d, e)                                                   \
	((int) (((a) - '0') & 0x3F) + ((((b) - '0') & 0x3F) << 6) +                        \
	 ((((c) - '0') & 0x3F) << 12) + ((((d) - '0') & 0x3F) << 18) +                     \
	 ((((e) - '0') & 0x3F) << 24))
#define ERRCODE_INTERNAL_ERROR MAKE_SQLSTATE('X', 'X', '0', '0', '0')
#define ERRCODE_INVALID_PARAMETER_VALUE MAKE_SQLSTATE('2', '2', '0', '2', '3')

static jmp_buf stub_jump __attribute__((unused));
static int stub_sqlstate __attribute__((unused));

#define errcode(code) ((void) (stub_sqlstate = (code)))
#define errmsg(...) ((void) snprintf(NULL, 0, __VA_ARGS__))
#define errmsg_internal errmsg
#define errdetail errmsg
#define errhint errmsg
#define ereport(level, ...) ((void) (__VA_ARGS__), longjmp(stub_jump, 1))
#define elog(level, ...) (errmsg(__VA_ARGS__), longjmp(stub_jump, 1))
#define STUB_TRY(statement) (setjmp(stub_jump) == 0 ? ((statement), true) : false)

#endif
