/* test/unit/tap.h -- the few lines that a C test needs to speak TAP */
#ifndef GN_TAP_H
#define GN_TAP_H

#include <stdio.h>
#include <string.h>

static int tap_count = 0;
static int tap_failures = 0;

#define ok(condition, ...) tap_ok((condition), __FILE__, __LINE__, __VA_ARGS__)
#define is_str(got, wanted, ...)                                                       \
	tap_is_str((got), (wanted), __FILE__, __LINE__, __VA_ARGS__)

#define tap_ok(passed, file, line, ...)                                                \
	do                                                                                 \
	{                                                                                  \
		bool tap_passed = (passed);                                                    \
		printf("%sok %d - ", tap_passed ? "" : "not ", ++tap_count);                   \
		printf(__VA_ARGS__);                                                           \
		printf("\n");                                                                  \
		if (!tap_passed)                                                               \
		{                                                                              \
			tap_failures++;                                                            \
			printf("#   at %s line %d\n", (file), (line));                             \
		}                                                                              \
	} while (0)

#define tap_is_str(got, wanted, file, line, ...)                                       \
	do                                                                                 \
	{                                                                                  \
		const char *tap_got = (got);                                                   \
		bool tap_same = tap_got && strcmp(tap_got, (wanted)) == 0;                     \
		tap_ok(tap_same, (file), (line), __VA_ARGS__);                                 \
		if (!tap_same)                                                                 \
			printf("#   got: %s\n#   wanted: %s\n", tap_got ? tap_got : "NULL",        \
				   (wanted));                                                          \
	} while (0)

/* The last line of main(): prints the plan, returns the exit status. */
static inline int
tap_done(void)
{
	printf("1..%d\n", tap_count);
	return tap_failures != 0;
}

#endif
