/* The scratch memory of one call: one block, in which arrays find their places one behind the other.

   A function that lays out arrays runs twice: first without memory, to add up their sizes, then to give them places. */

#ifndef ELMO_MEMORY_H
#define ELMO_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CACHE_LINE 64
#define HUGE_PAGE (2 << 20)

typedef struct {
    char *memory; /* NULL while sizes are added up */
    int64_t bytes;
} Scratch;

/* The place of `count` items of `size` bytes, at the start of a cache line. */
static inline void *scratch_array(Scratch *scratch, int64_t count, int64_t size)
{
    char *place = scratch->memory ? scratch->memory + scratch->bytes : NULL;
    scratch->bytes += (count * size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return place;
}

static inline float *scratch_floats(Scratch *scratch, int64_t count) { return scratch_array(scratch, count, 4); }

/* Get memory for the sizes added up, in huge pages where the system has them; 0 where there is none. */
static inline int reserve_scratch(Scratch *scratch)
{
    const int is_large = scratch->bytes >= 2 * HUGE_PAGE;
    const size_t alignment = is_large ? HUGE_PAGE : CACHE_LINE;
    const size_t bytes = ((size_t)scratch->bytes / alignment + 1) * alignment;
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, bytes)) return 0;
#ifdef MADV_HUGEPAGE
    if (is_large) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    *scratch = (Scratch){memory, 0};
    return 1;
}

static inline void release_scratch(Scratch *scratch) { free(scratch->memory); }

#endif
