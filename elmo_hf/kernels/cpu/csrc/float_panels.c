#include "float_panels.h"

#include <stddef.h>

#include "float_tile.h"

void multiply_float_panel(const float *input, int64_t rows, int64_t input_stride, const void *panel, int is_bfloat16,
                          int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate,
                          float *expanded)
{
    int64_t tiles = (rows + MR - 1) / MR;
    const Prefetch plan = prefetch_plan(panel, inputs, NR * (is_bfloat16 ? 2 : 4), tiles);
    if (is_bfloat16 && tiles > 1) {
        /* Widen once for all rows. */
        for (int64_t k = 0; k < inputs; k++) {
            vfloat low, high;
            expand_bfloat16((const uint32_t *)panel + k * LANES, &low, &high);
            store(expanded + k * NR, low);
            store(expanded + k * NR + LANES, high);
        }
        panel = expanded, is_bfloat16 = 0;
    }
    for (int64_t number = 0, row = 0; number < tiles; number++) {
        int of_tile = rows_of_tile(rows - row, tiles - number);
        const float *rows_of_input = input + row * input_stride;
        float *target = output + row * output_stride;
        const Prefetch prefetch = prefetch_of_tile(plan, number, 1);
        const RowLayout layout = {input_stride, 1, 0, 0};
        if (is_bfloat16)
            SWITCH_ROWS(of_tile, float_tile(ROWS, 1, rows_of_input, layout, panel, inputs, target, output_stride, start,
                                            accumulate, prefetch))
        else
            SWITCH_ROWS(of_tile, float_tile(ROWS, 0, rows_of_input, layout, panel, inputs, target, output_stride, start,
                                            accumulate, prefetch))
        row += of_tile;
    }
}

/* Prefetch plan by which every tile fetches its share of the `inputs` * NR floats at `next`. */
INLINE Prefetch prefetch_elsewhere(const float *next, int64_t inputs, int64_t tiles)
{
    Prefetch plan = prefetch_plan(NULL, inputs, NR * sizeof(float), tiles == 1 ? 2 : tiles);
    plan.address = (const char *)next;
    return plan;
}

void multiply_rows_of_panels(const float *input, int64_t rows, int64_t panel_stride, const float *panel, int64_t inputs,
                             float *output, int64_t output_stride, int accumulate, const float *next)
{
    const int64_t tiles = (rows + MR - 1) / MR;
    const Prefetch plan = prefetch_elsewhere(next, inputs, tiles);
    for (int64_t number = 0, row = 0; number < tiles; number++) {
        const int of_tile = rows_of_tile(rows - row, tiles - number);
        const RowLayout layout = {NR, 1, NR, panel_stride};
        SWITCH_ROWS(of_tile, float_tile(ROWS, 0, input + row * NR, layout, panel, inputs, output + row * output_stride,
                                        output_stride, NULL, accumulate, prefetch_of_tile(plan, number, 1)))
        row += of_tile;
    }
}

void multiply_rows_of_tiles(const float *input, int64_t rows, int64_t tile_stride, const float *panel, int64_t inputs,
                            float *output, int64_t output_stride, const float *start, int accumulate, const float *next)
{
    const int64_t tiles = (rows + MR - 1) / MR;
    const Prefetch plan = prefetch_elsewhere(next, inputs, tiles);
    for (int64_t number = 0; number < tiles; number++) {
        const int64_t row = number * MR;
        const int of_tile = (int)(rows - row < MR ? rows - row : MR);
        const RowLayout layout = {1, MR, 0, 0};
        SWITCH_ROWS(of_tile, float_tile(ROWS, 0, input + number * tile_stride, layout, panel, inputs,
                                        output + row * output_stride, output_stride, start, accumulate,
                                        prefetch_of_tile(plan, number, 1)))
    }
}

void multiply_row_by_four_bfloat16_panels(const float *row, int64_t row_stride, const void *panels, int64_t inputs,
                                          float *output)
{
    const int64_t panel_stride = inputs * LANES; /* in words of two outputs */
    for (int64_t start = 0; start < inputs; start += KC) {
        int64_t count = inputs - start < KC ? inputs - start : KC;
        const float *input = row + start / KC * row_stride;
        const uint32_t *first = (const uint32_t *)panels + start * LANES;
        vfloat sums[4][2];
        UNROLL
        for (int p = 0; p < 4; p++) sums[p][0] = sums[p][1] = (vfloat){0};
        for (int64_t k = 0; k < count; k++) {
            UNROLL
            for (int p = 0; p < 4; p++) {
                const uint32_t *weights = first + p * panel_stride + k * LANES;
                __builtin_prefetch(weights + PREFETCH_INPUTS * LANES);
                vfloat low, high;
                expand_bfloat16(weights, &low, &high);
                sums[p][0] += input[k] * low;
                sums[p][1] += input[k] * high;
            }
        }
        UNROLL
        for (int p = 0; p < 4; p++) {
            float *target = output + p * NR;
            if (start) sums[p][0] += load(target), sums[p][1] += load(target + LANES);
            store(target, sums[p][0]);
            store(target + LANES, sums[p][1]);
        }
    }
}
