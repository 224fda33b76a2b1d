#include "float_panels.h"

/* A pair of bfloat16, the first in the low half of a word, to two vectors of float32. */
INLINE void expand_bfloat16(const uint32_t *pairs, vfloat *low, vfloat *high)
{
    vuint_memory both = *(const vuint_memory *)pairs;
    *low = (vfloat)(both << 16);
    *high = (vfloat)(both & 0xffff0000u);
}

/* The register tile: `rows` is at most MR and known to the compiler. */
INLINE void tile(const int rows, const int is_bfloat16, const float *input, int64_t input_stride, const void *panel,
                 int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate,
                 Prefetch prefetch)
{
    const int64_t bytes_per_input = (is_bfloat16 ? 2 : 4) * NR;
    const char *weights = panel;
    vfloat sums[MR][2];
    const vfloat start_low = start ? load(start) : (vfloat){0}, start_high = start ? load(start + LANES) : (vfloat){0};
    UNROLL
    for (int r = 0; r < rows; r++) sums[r][0] = start_low, sums[r][1] = start_high;
    for (int64_t k = 0; k < inputs; k++) {
        prefetch_next(&prefetch);
        vfloat low, high;
        if (is_bfloat16) expand_bfloat16((const uint32_t *)weights, &low, &high);
        else low = load((const float *)weights), high = load((const float *)weights + LANES);
        weights += bytes_per_input;
        UNROLL
        for (int r = 0; r < rows; r++) {
            float value = input[r * input_stride + k];
            sums[r][0] += value * low;
            sums[r][1] += value * high;
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

/* `tile` for each number of rows. */
static void run_tile(int rows, int is_bfloat16, const float *input, int64_t input_stride, const void *panel,
                     int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate,
                     Prefetch prefetch)
{
#define CASE(rows, is_bfloat16)                                                                               \
    case rows:                                                                                                \
        tile(rows, is_bfloat16, input, input_stride, panel, inputs, output, output_stride, start, accumulate, \
             prefetch);                                                                                       \
        return;
#define SIX_CASES(first, is_bfloat16) \
    CASE(first, is_bfloat16)          \
    CASE(first + 1, is_bfloat16)      \
    CASE(first + 2, is_bfloat16)      \
    CASE(first + 3, is_bfloat16)      \
    CASE(first + 4, is_bfloat16)      \
    CASE(first + 5, is_bfloat16)
    if (is_bfloat16) {
        switch (rows) {
            SIX_CASES(1, 1)
#if MR > 6
            SIX_CASES(7, 1)
#endif
        }
    } else {
        switch (rows) {
            SIX_CASES(1, 0)
#if MR > 6
            SIX_CASES(7, 0)
#endif
        }
    }
#undef SIX_CASES
#undef CASE
}

void multiply_float_panel(const float *input, int64_t rows, int64_t input_stride, const void *panel, int is_bfloat16,
                          int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate,
                          float *expanded)
{
    int64_t tiles = (rows + MR - 1) / MR;
    const Prefetch plan = prefetch_plan(panel, inputs, NR * (is_bfloat16 ? 2 : 4), tiles);
    if (is_bfloat16 && tiles > 1) {
        /* Expanded once for all rows. */
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
        run_tile(of_tile, is_bfloat16, input + row * input_stride, input_stride, panel, inputs,
                 output + row * output_stride, output_stride, start, accumulate, prefetch_of_tile(plan, number, 1));
        row += of_tile;
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
