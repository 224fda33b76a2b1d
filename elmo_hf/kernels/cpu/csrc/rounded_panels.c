#include "rounded_panels.h"

#include <stddef.h>
#include <string.h>

#if INT8_SUM_BITS
/* One register of groups of four bytes: inputs of one output, or of one row, side by side. */
#ifdef __ARM_FEATURE_DOTPROD
#include <arm_neon.h>
typedef int32x4_t vbytes;
INLINE vbytes load_bytes(const char *source) { return vreinterpretq_s32_s8(vld1q_s8((const int8_t *)source)); }
INLINE vbytes broadcast_four(int32_t four) { return vdupq_n_s32(four); }
INLINE vbytes add_int8_products(vbytes sum, vbytes inputs, vbytes weights)
{
    return vdotq_s32(sum, vreinterpretq_s8_s32(inputs), vreinterpretq_s8_s32(weights));
}
#elif LANES == 16
#include <immintrin.h>
typedef __m512i vbytes;
INLINE vbytes load_bytes(const char *source) { return _mm512_loadu_si512(source); }
INLINE vbytes broadcast_four(int32_t four) { return _mm512_set1_epi32(four); }
INLINE vbytes add_int8_products(vbytes sum, vbytes inputs, vbytes weights)
{
#if INT8_SUM_BITS == 32
    return _mm512_dpbusd_epi32(sum, inputs, weights);
#else
    /* Pairs of products are added in 16 bits, pairs of pairs in 32. */
    const vbytes pairs = _mm512_maddubs_epi16(inputs, weights);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
#else
#include <immintrin.h>
typedef __m256i vbytes;
INLINE vbytes load_bytes(const char *source) { return _mm256_loadu_si256((const __m256i *)source); }
INLINE vbytes broadcast_four(int32_t four) { return _mm256_set1_epi32(four); }
INLINE vbytes add_int8_products(vbytes sum, vbytes inputs, vbytes weights)
{
#if INT8_SUM_BITS == 32
    return _mm256_dpbusd_avx_epi32(sum, inputs, weights);
#else
    const vbytes pairs = _mm256_maddubs_epi16(inputs, weights);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
#endif

INLINE vbytes add_products(const int is_bfloat16, vbytes sum, vbytes inputs, vbytes weights)
{
#if MULTIPLIES_BFLOAT16
    if (is_bfloat16)
        return (vbytes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)inputs, (__m512bh)weights);
#else
    (void)is_bfloat16;
#endif
    return add_int8_products(sum, inputs, weights);
}

/* The register tile: rows of `bytes` bytes, `input_stride` bytes apart. `rows`, at most MR, and `is_bfloat16` are
   compile-time constants. Sums are 32-bit integers, or floats for bfloat16. */
INLINE void tile(const int rows, const int is_bfloat16, const char *input, int64_t input_stride, const char *panel,
                 int64_t bytes, float *output, int64_t output_stride, const float *start, int accumulate,
                 Prefetch prefetch)
{
    vbytes sums[MR][2];
    const vfloat start_low = start ? load(start) : (vfloat){0}, start_high = start ? load(start + LANES) : (vfloat){0};
    UNROLL
    for (int r = 0; r < rows; r++) sums[r][0] = (vbytes)start_low, sums[r][1] = (vbytes)start_high;
    for (int64_t k = 0; k < bytes; k += 4, panel += 4 * NR) {
        prefetch_next(&prefetch);
        const vbytes low = load_bytes(panel), high = load_bytes(panel + 2 * NR);
        UNROLL
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, input + r * input_stride + k, sizeof four);
            const vbytes values = broadcast_four(four);
            sums[r][0] = add_products(is_bfloat16, sums[r][0], values, low);
            sums[r][1] = add_products(is_bfloat16, sums[r][1], values, high);
            KEEP_IN_REGISTERS(sums[r][0], sums[r][1]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        float *target = output + r * output_stride;
        UNROLL
        for (int half = 0; half < 2; half++, target += LANES) {
            if (!accumulate) *(vint_memory *)target = (vint)sums[r][half];
            else if (is_bfloat16) *(vfloat_memory *)target += (vfloat)sums[r][half];
            else *(vint_memory *)target += (vint)sums[r][half];
        }
    }
}

INLINE void multiply_rounded_panel(const int is_bfloat16, const char *input, int64_t rows, int64_t input_stride,
                                   const void *panel, int64_t bytes, float *output, int64_t output_stride,
                                   const float *start, int accumulate)
{
    const int64_t tiles = (rows + MR - 1) / MR;
    const Prefetch plan = prefetch_plan(panel, bytes, NR, tiles);
    for (int64_t number = 0, row = 0; number < tiles; number++) {
        const int of_tile = rows_of_tile(rows - row, tiles - number);
        SWITCH_ROWS(of_tile, tile(ROWS, is_bfloat16, input + row * input_stride, input_stride, panel, bytes,
                                  output + row * output_stride, output_stride, start, accumulate,
                                  prefetch_of_tile(plan, number, 4)))
        row += of_tile;
    }
}

void multiply_int8_panel(const uint8_t *input, int64_t rows, int64_t input_stride, const void *panel, int64_t inputs,
                         float *output, int64_t output_stride, int accumulate)
{
    multiply_rounded_panel(0, (const char *)input, rows, input_stride, panel, inputs, output, output_stride, NULL,
                           accumulate);
}
#endif

#if MULTIPLIES_BFLOAT16
void multiply_bfloat16_panel(const uint16_t *input, int64_t rows, int64_t input_stride, const void *panel,
                             int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate)
{
    multiply_rounded_panel(1, (const char *)input, rows, 2 * input_stride, panel, 2 * inputs, output, output_stride,
                           start, accumulate);
}

void round_to_bfloat16(const float *values, int64_t count, uint16_t *rounded)
{
    for (int64_t k = 0; k < count; k += LANES)
        _mm256_storeu_si256((__m256i *)(rounded + k), (__m256i)_mm512_cvtneps_pbh((__m512)load(values + k)));
}
#endif
