/* The register tile of float32: at most MR rows times NR columns, summed in registers.

   It works as a template: callers pass constants, and the compiler specializes the code for each combination. */

#ifndef ELMO_FLOAT_TILE_H
#define ELMO_FLOAT_TILE_H

#include "blocking.h"

/* Layout of a tile's rows: input k of row r is at

       k / run * run_stride + k % run * input_stride + r * row_stride

   `run` is 0 where all inputs lie in one run. */
typedef struct {
    int64_t row_stride, input_stride, run, run_stride;
} RowLayout;

/* Widen pairs of bfloat16, the first in the low half of a word, to two float32 vectors. */
INLINE void expand_bfloat16(const uint32_t *pairs, vfloat *low, vfloat *high)
{
    vuint_memory both = *(const vuint_memory *)pairs;
    *low = (vfloat)(both << 16);
    *high = (vfloat)(both & 0xffff0000u);
}

/* output [rows][NR] = input [rows][inputs] * panel [inputs][NR] + (start [NR] or 0, or the output itself).

   `rows` and `is_bfloat16` (of the panel) are compile-time constants; `inputs` is a multiple of the layout's run. */
INLINE void float_tile(const int rows, const int is_bfloat16, const float *input, const RowLayout layout,
                       const void *panel, int64_t inputs, float *output, int64_t output_stride, const float *start,
                       int accumulate, Prefetch prefetch)
{
    const int64_t run = layout.run ? layout.run : inputs;
    const char *weights = panel;
    vfloat sums[MR][2];
    const vfloat start_low = start ? load(start) : (vfloat){0}, start_high = start ? load(start + LANES) : (vfloat){0};
    UNROLL
    for (int r = 0; r < rows; r++) {
        sums[r][0] = start_low, sums[r][1] = start_high;
        __builtin_prefetch(output + r * output_stride, 1);
    }
    for (int64_t first = 0; first < inputs; first += run, input += layout.run_stride) {
        const float *column = input;
        if (layout.run) {
            /* The same run of the next tile, which hardware prefetchers do not predict. */
            UNROLL
            for (int r = 0; r < rows; r++) __builtin_prefetch(input + (r + MR) * layout.row_stride);
        }
        for (int64_t k = 0; k < run; k++) {
            prefetch_next(&prefetch);
            vfloat low, high;
            if (is_bfloat16) expand_bfloat16((const uint32_t *)weights, &low, &high);
            else low = load((const float *)weights), high = load((const float *)weights + LANES);
            weights += (is_bfloat16 ? 2 : 4) * NR;
            UNROLL
            for (int r = 0; r < rows; r++) {
                const float value = column[r * layout.row_stride];
                sums[r][0] += value * low;
                sums[r][1] += value * high;
                KEEP_IN_REGISTERS(sums[r][0], sums[r][1]);
            }
            column += layout.input_stride;
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        float *target = output + r * output_stride;
        if (accumulate) sums[r][0] += load(target), sums[r][1] += load(target + LANES);
        store(target, sums[r][0]);
        store(target + LANES, sums[r][1]);
    }
}

#endif
