/* Operand layouts of the training kernels, and division of work between threads. */

#ifndef ELMO_PACKING_H
#define ELMO_PACKING_H

#include <string.h>

#include "blocking.h"
#include "threads.h"

#define K_BLOCK 256 /* inputs, or words, summed per block: this part of a panel fits half of the L1 cache */

INLINE int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }
INLINE int64_t larger(int64_t one, int64_t other) { return one > other ? one : other; }
INLINE int64_t ceil_divide(int64_t items, int64_t per_block) { return (items + per_block - 1) / per_block; }

/* The range of items that a thread processes. */
typedef struct {
    int64_t first, end;
} Share;

INLINE Share share_of(int64_t items, int64_t thread, const Team *team)
{
    return (Share){share_start(items, thread, team->size), share_start(items, thread + 1, team->size)};
}

/* Pack the first `count` of NR rows of a weight [...][inputs] into a panel [inputs][NR], filled up with zeros. */
static inline void pack_transposed(const float *rows, int64_t inputs, int64_t count, float *panel)
{
    if (count < NR) memset(panel, 0, (size_t)(inputs * NR) * sizeof(float));
    for (int64_t l = 0; l < count; l++)
        for (int64_t k = 0; k < inputs; k++) panel[k * NR + l] = rows[l * inputs + k];
}

/* Pack NR columns of `count` rows of a weight, `stride` apart, into (part of) a panel [count][NR]. */
static inline void pack_columns(const float *columns, int64_t count, int64_t stride, float *panel)
{
    for (int64_t k = 0; k < count; k++) {
        store(panel + k * NR, load(columns + k * stride));
        store(panel + k * NR + LANES, load(columns + k * stride + LANES));
    }
}

/* Pack rows [rows][...], `stride` apart, into tiles [tile][...][MR] over their columns: a thread's share of them. */
static inline void pack_tiles(const float *input, int64_t rows, int64_t stride, int64_t width, float *tiles,
                              int64_t tile_stride, Share of_tiles)
{
    for (int64_t tile = of_tiles.first; tile < of_tiles.end; tile++) {
        const float *columns = input + tile * MR;
        float *target = tiles + tile * tile_stride;
        const int64_t count = smaller(width - tile * MR, MR);
        if (count == MR)
            for (int64_t row = 0; row < rows; row++)
                memcpy(target + row * MR, columns + row * stride, MR * sizeof(float));
        else
            for (int64_t row = 0; row < rows; row++)
                for (int64_t m = 0; m < count; m++) target[row * MR + m] = columns[row * stride + m];
    }
}

/* Unpack sums [rows][NR] of a panel into the first `count` of NR rows of a weight's gradient [...][rows]. */
static inline void unpack_transposed(const float *sums, int64_t rows, int64_t count, float *gradient)
{
    for (int64_t l = 0; l < count; l++)
        for (int64_t k = 0; k < rows; k++) gradient[l * rows + k] = sums[k * NR + l];
}

#endif
