/* Scratch memory of one call: a single block that holds all arrays one after another.

   A layout function runs twice: first without memory, to add up the sizes, then to assign addresses. */

#ifndef ELMO_MEMORY_H
#define ELMO_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CACHE_LINE 64
#define HUGE_PAGE (2 << 20)

typedef struct {
    char *memory; /* NULL during the first run */
    int64_t bytes;
} Scratch;

/* Address of `count` items of `size` bytes, aligned to a cache line. */
static inline void *scratch_array(Scratch *scratch, int64_t count, int64_t size)
{
    char *place = scratch->memory ? scratch->memory + scratch->bytes : NULL;
    scratch->bytes += (count * size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return place;
}

static inline float *scratch_floats(Scratch *scratch, int64_t count) { return scratch_array(scratch, count, 4); }

/* Allocate the total size, in huge pages if the system supports them; return 0 if there is not enough memory. */
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
