/* Scratch memory of one call. */

#ifndef ELMO_MEMORY_H
#define ELMO_MEMORY_H

#include <stdint.h>
#include <stdlib.h>

/* Memory for `count` items at the start of a cache line, never NULL for 0 of them; NULL where there is none. */
static inline void *allocate(int64_t count, int64_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, 64, (size_t)((count + 1) * bytes)) ? NULL : memory;
}

#endif
