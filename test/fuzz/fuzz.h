/* test/fuzz/fuzz.h -- what fuzz targets share; included after what is tested */
#ifndef GN_FUZZ_H
#define GN_FUZZ_H

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that holds for every input; libFuzzer keeps the input that breaks it. */
#define CHECK(property)                                                                \
	do                                                                                 \
	{                                                                                  \
		if (!(property))                                                               \
		{                                                                              \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__,          \
					#property);                                                        \
			abort();                                                                   \
		}                                                                              \
	} while (0)

/* Room of exactly that size, so that AddressSanitizer sees the first byte beyond. */
static inline void *
exact_room(size_t size)
{
	void *room = malloc(size ? size : 1);

	CHECK(room);
	return room;
}

static inline void *
exact_copy(const void *data, size_t size)
{
	void *copy = exact_room(size);

	if (size > 0)
		memcpy(copy, data, size);
	return copy;
}

#endif
