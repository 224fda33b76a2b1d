/* Block sizes of matmuls, named as in GotoBLAS, and prefetching. */

#ifndef ELMO_BLOCKING_H
#define ELMO_BLOCKING_H

#include "vectors.h"

/* Rows of a register tile: its 2 * MR sums and their operands fill the registers, 32 with AVX-512 and NEON. */
#if LANES == 16 || defined(__aarch64__)
#define MR 12
#else
#define MR 6
#endif
#define NR (2 * LANES)      /* outputs of a panel, and columns of a register tile */
#define KC 512              /* inputs summed per block: this part of a panel stays in the L1 cache */
#define ROW_BLOCK 96        /* rows per block: their inputs and gates stay in the L2 cache */
#define PREFETCH_INPUTS 128 /* distance between prefetch and use of a panel that is used once */

/* What to prefetch while a panel is multiplied. With few rows, a panel is used once and fetched shortly before its use.
   With many, every tile of rows fetches its share of the next panel, which keeps memory busy and hides its latency. */
typedef struct {
    const char *address;
    int64_t bytes_per_input, bytes_per_tile;
    int into_l2; /* the L1 cache has no room for a second panel */
} Prefetch;

INLINE Prefetch prefetch_plan(const void *panel, int64_t inputs, int64_t bytes_per_input, int64_t tiles)
{
    if (tiles == 1) return (Prefetch){(const char *)panel + PREFETCH_INPUTS * bytes_per_input, bytes_per_input, 0, 0};
    return (Prefetch){(const char *)panel + inputs * bytes_per_input, bytes_per_input / tiles,
                      inputs * bytes_per_input / tiles, tiles == 2};
}

/* The prefetch plan of one tile of rows, for a loop that reads `inputs` inputs per iteration. */
INLINE Prefetch prefetch_of_tile(Prefetch plan, int64_t tile, int64_t inputs)
{
    return (Prefetch){plan.address + tile * plan.bytes_per_tile, inputs * plan.bytes_per_input, 0, plan.into_l2};
}

INLINE void prefetch_next(Prefetch *plan)
{
    if (plan->into_l2) __builtin_prefetch(plan->address, 0, 2);
    else __builtin_prefetch(plan->address);
    plan->address += plan->bytes_per_input;
}

/* Number of rows of the next tile if `tiles` tiles remain for `rows` rows. Tiles differ by at most one row. */
INLINE int rows_of_tile(int64_t rows, int64_t tiles) { return (int)((rows + tiles - 1) / tiles); }

/* Run a statement with the compile-time constant ROWS equal to `rows`, from 1 to MR. */
#define CASE_OF_ROWS(number, statement) \
    case number: {                      \
        enum { ROWS = number };         \
        statement;                      \
        break;                          \
    }
#define SIX_CASES_OF_ROWS(first, statement) \
    CASE_OF_ROWS(first, statement)          \
    CASE_OF_ROWS(first + 1, statement)      \
    CASE_OF_ROWS(first + 2, statement)      \
    CASE_OF_ROWS(first + 3, statement)      \
    CASE_OF_ROWS(first + 4, statement)      \
    CASE_OF_ROWS(first + 5, statement)
#if MR == 12
#define SWITCH_ROWS(rows, statement)    \
    switch (rows) {                     \
        SIX_CASES_OF_ROWS(1, statement) \
        SIX_CASES_OF_ROWS(7, statement) \
    }
#else
#define SWITCH_ROWS(rows, statement)    \
    switch (rows) {                     \
        SIX_CASES_OF_ROWS(1, statement) \
    }
#endif

#endif
