#include "int8_panels.h"

#include <string.h>

#if HAS_INT8
/* One register of bytes: four inputs of one output, or of one row, side by side. */
#ifdef __ARM_FEATURE_DOTPROD
#include <arm_neon.h>
typedef int32x4_t vbytes;
INLINE vbytes load_bytes(const char *source) { return vreinterpretq_s32_s8(vld1q_s8((const int8_t *)source)); }
INLINE vbytes broadcast_four(int32_t four) { return vdupq_n_s32(four); }
INLINE vbytes add_dot_products(vbytes sum, vbytes inputs, vbytes weights)
{
    return vdotq_s32(sum, vreinterpretq_s8_s32(inputs), vreinterpretq_s8_s32(weights));
}
#elif LANES == 16
#include <immintrin.h>
typedef __m512i vbytes;
INLINE vbytes load_bytes(const char *source) { return _mm512_loadu_si512(source); }
INLINE vbytes broadcast_four(int32_t four) { return _mm512_set1_epi32(four); }
/* Pairs of products are added in 16 bits, where `signed_levels` keeps them from overflowing; pairs of pairs in 32. */
INLINE vbytes add_dot_products(vbytes sum, vbytes inputs, vbytes weights)
{
    const vbytes pairs = _mm512_maddubs_epi16(inputs, weights);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#else
#include <immintrin.h>
typedef __m256i vbytes;
INLINE vbytes load_bytes(const char *source) { return _mm256_loadu_si256((const __m256i *)source); }
INLINE vbytes broadcast_four(int32_t four) { return _mm256_set1_epi32(four); }
/* Pairs of products are added in 16 bits, where `signed_levels` keeps them from overflowing; pairs of pairs in 32. */
INLINE vbytes add_dot_products(vbytes sum, vbytes inputs, vbytes weights)
{
    const vbytes pairs = _mm256_maddubs_epi16(inputs, weights);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

/* The register tile. `rows` is a compile-time constant of at most MR. */
INLINE void tile(const int rows, const uint8_t *input, int64_t input_stride, const char *panel, int64_t inputs,
                 float *output, int64_t output_stride, int accumulate, Prefetch prefetch)
{
    vbytes sums[MR][2];
    UNROLL
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = broadcast_four(0);
    for (int64_t k = 0; k < inputs; k += 4, panel += 4 * NR) {
        prefetch_next(&prefetch);
        const vbytes low = load_bytes(panel), high = load_bytes(panel + 2 * NR);
        UNROLL
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, input + r * input_stride + k, sizeof four);
            const vbytes values = broadcast_four(four);
            sums[r][0] = add_dot_products(sums[r][0], values, low);
            sums[r][1] = add_dot_products(sums[r][1], values, high);
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

void multiply_int8_panel(const uint8_t *input, int64_t rows, int64_t input_stride, const void *panel, int64_t inputs,
                         float *output, int64_t output_stride, int accumulate)
{
    const int64_t tiles = (rows + MR - 1) / MR;
    const Prefetch plan = prefetch_plan(panel, inputs, NR, tiles);
    for (int64_t number = 0, row = 0; number < tiles; number++) {
        const int of_tile = rows_of_tile(rows - row, tiles - number);
        SWITCH_ROWS(of_tile,
                    tile(ROWS, input + row * input_stride, input_stride, panel, inputs, output + row * output_stride,
                         output_stride, accumulate, prefetch_of_tile(plan, number, 4)))
        row += of_tile;
    }
}
#endif
