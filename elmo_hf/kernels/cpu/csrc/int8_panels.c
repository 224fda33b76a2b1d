#include "int8_panels.h"

#include <string.h>

#if HAS_INT8
#include <immintrin.h>

/* Pairs of 16-bit integers: a pair is two inputs of one output. */
#if LANES == 16
typedef __m512i vpairs;
INLINE vpairs expand_pairs(const char *source)
{
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)source));
}
INLINE vpairs load_pairs(const char *source) { return _mm512_loadu_si512(source); }
INLINE void store_pairs(char *target, vpairs pairs) { _mm512_storeu_si512(target, pairs); }
INLINE vpairs broadcast_pair(int32_t pair) { return _mm512_set1_epi32(pair); }
INLINE vpairs add_dot_products(vpairs sum, vpairs left, vpairs right)
{
    return _mm512_add_epi32(sum, _mm512_madd_epi16(left, right));
}
#else
typedef __m256i vpairs;
INLINE vpairs expand_pairs(const char *source)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)source));
}
INLINE vpairs load_pairs(const char *source) { return _mm256_loadu_si256((const __m256i *)source); }
INLINE void store_pairs(char *target, vpairs pairs) { _mm256_storeu_si256((__m256i *)target, pairs); }
INLINE vpairs broadcast_pair(int32_t pair) { return _mm256_set1_epi32(pair); }
INLINE vpairs add_dot_products(vpairs sum, vpairs left, vpairs right)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(left, right));
}
#endif

/* The register tile: `rows` is at most MR and known to the compiler. `bytes` of a weight: 1 in a panel as it is, 2 in
   one that was expanded. */
INLINE void tile(const int rows, const int bytes, const int16_t *input, int64_t input_stride, const char *panel,
                 int64_t inputs, float *output, int64_t output_stride, int accumulate, Prefetch prefetch)
{
    const int64_t bytes_per_pair = 2 * bytes * NR;
    vpairs sums[MR][2];
    UNROLL
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = broadcast_pair(0);
    for (int64_t k = 0; k < inputs; k += 2) {
        prefetch_next(&prefetch);
        vpairs low = bytes == 1 ? expand_pairs(panel) : load_pairs(panel);
        vpairs high = bytes == 1 ? expand_pairs(panel + NR) : load_pairs(panel + 2 * NR);
        panel += bytes_per_pair;
        UNROLL
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, input + r * input_stride + k, sizeof pair);
            vpairs value = broadcast_pair(pair);
            sums[r][0] = add_dot_products(sums[r][0], value, low);
            sums[r][1] = add_dot_products(sums[r][1], value, high);
            KEEP_IN_REGISTERS(sums[r][0], sums[r][1]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        vint_memory *first = (vint_memory *)(output + r * output_stride);
        vint_memory *second = (vint_memory *)(output + r * output_stride + LANES);
        vint low = (vint)sums[r][0], high = (vint)sums[r][1];
        if (accumulate) low += *first, high += *second;
        *first = low, *second = high;
    }
}

void multiply_int8_panel(const int16_t *input, int64_t rows, int64_t input_stride, const void *panel, int64_t inputs,
                         float *output, int64_t output_stride, int accumulate, void *expanded)
{
    int64_t tiles = (rows + MR - 1) / MR;
    const Prefetch plan = prefetch_plan(panel, inputs, NR, tiles);
    const char *weights = panel;
    int bytes = 1;
    if (tiles > 1) {
        /* Expanded once for all rows. */
        for (int64_t byte = 0; byte < inputs * NR; byte += NR)
            store_pairs((char *)expanded + 2 * byte, expand_pairs(weights + byte));
        weights = expanded, bytes = 2;
    }
    for (int64_t number = 0, row = 0; number < tiles; number++) {
        int of_tile = rows_of_tile(rows - row, tiles - number);
        const int16_t *rows_of_input = input + row * input_stride;
        float *target = output + row * output_stride;
        const Prefetch prefetch = prefetch_of_tile(plan, number, 2);
        if (bytes == 1)
            SWITCH_ROWS(of_tile, tile(ROWS, 1, rows_of_input, input_stride, weights, inputs, target, output_stride,
                                      accumulate, prefetch))
        else
            SWITCH_ROWS(of_tile, tile(ROWS, 2, rows_of_input, input_stride, weights, inputs, target, output_stride,
                                      accumulate, prefetch))
        row += of_tile;
    }
}
#endif
