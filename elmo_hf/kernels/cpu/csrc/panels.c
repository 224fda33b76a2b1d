#include "panels.h"

#include <math.h>

#include "float_panels.h"
#include "library.h"
#include "rounded_panels.h"

int64_t elmo_panel(void) { return NR; }
int64_t elmo_int8_sum_bits(void) { return INT8_SUM_BITS; }
int64_t elmo_multiplies_bfloat16(void) { return MULTIPLIES_BFLOAT16; }

int64_t rounded_bytes(const Weight *weight)
{
    return weight->kind == INT8 ? 1 : weight->kind == BFLOAT16 && MULTIPLIES_BFLOAT16 ? 2 : 0;
}

const void *panel_at(const Weight *weight, int64_t panel, int64_t input)
{
    const int64_t bytes = weight->kind == INT8 ? 1 : weight->kind == BFLOAT16 ? 2 : 4;
    return (const char *)weight->panels + (panel * weight->inputs + input) * NR * bytes;
}

void multiply_panel(const Weight *weight, const void *part_of_panel, const void *input, int64_t rows,
                    int64_t input_stride, int64_t inputs, float *output, int64_t output_stride, const float *start,
                    int accumulate, float *expanded)
{
#if INT8_SUM_BITS
    if (weight->kind == INT8) {
        multiply_int8_panel(input, rows, input_stride, part_of_panel, inputs, output, output_stride, accumulate);
        return;
    }
#endif
#if MULTIPLIES_BFLOAT16
    if (weight->kind == BFLOAT16) {
        multiply_bfloat16_panel(input, rows, input_stride, part_of_panel, inputs, output, output_stride, start,
                                accumulate);
        return;
    }
#endif
    multiply_float_panel(input, rows, input_stride, part_of_panel, weight->kind == BFLOAT16, inputs, output,
                         output_stride, start, accumulate, expanded);
}

void multiply_row_by_four_panels(const float *row, int64_t row_stride, const Weight *weight, int64_t panel,
                                 float *output)
{
    multiply_row_by_four_bfloat16_panels(row, row_stride, panel_at(weight, panel, 0), weight->inputs, output);
}

void dequantize_outputs(const Weight *weight, int64_t panel, const Rounding *roundings, const float *bias, int64_t rows,
                        float *output, int64_t output_stride)
{
    if (weight->kind != INT8) return;
    UNROLL
    for (int half = 0; half < NR; half += LANES) {
        const vfloat scale = load(weight->scale + panel * NR + half);
        const vfloat start = bias ? load(bias + half) : (vfloat){0};
        const vint sums = *(const vint_memory *)(weight->sums + panel * NR + half);
        for (int64_t r = 0; r < rows; r++) {
            float *target = output + r * output_stride + half;
            const vint sum = *(vint_memory *)target - sums * roundings[r].zero;
            store(target, __builtin_convertvector(sum, vfloat) * scale * roundings[r].scale + start);
        }
    }
}

static Rounding quantize_row(const float *row, int64_t count, int64_t stride, int64_t signed_levels, uint8_t *quantized)
{
    vfloat low = (vfloat){0}, high = (vfloat){0};
    vint is_nan = (vint){0};
    for (int64_t k = 0; k < count; k += LANES) {
        vfloat value = load(row + k / KC * stride + k % KC);
        low = select_lanes(value < low, value, low), high = select_lanes(value > high, value, high);
        is_nan |= value != value;
    }
    int has_nan = 0;
    for (int l = 0; l < LANES; l++) has_nan |= is_nan[l];
    float least = 0.0f, most = 0.0f;
    for (int l = 0; l < LANES; l++) least = fminf(least, low[l]), most = fmaxf(most, high[l]);
    const int64_t levels = least < 0.0f ? signed_levels : 127;
    const float scale = fmaxf(fmaxf(most, -least) / levels, 1e-36f), inverse = 1.0f / scale;
    /* With all levels, every row has the zero point, which can change the rounding of values near a half. */
    const float zero = least < 0.0f || signed_levels == 127 ? levels + levels % 2 : 0.0f;
    const float taken_off = SIGNED_INPUTS ? zero : 0.0f;
    const float to_integer = 12582912.0f;
    for (int64_t k = 0; k < count; k += LANES) {
        int64_t offset = k / KC * stride + k % KC;
        vfloat value = load(row + offset) * inverse;
        __asm__("" : "+m"(value)); /* round before the zero point is added, as the definition does */
        value = (((value + zero) + to_integer) - to_integer) - taken_off;
        *(vbyte_memory *)(quantized + offset) =
            __builtin_convertvector(__builtin_convertvector(value, vint), vbyte_memory);
    }
    /* No integer can represent infinity. */
    return (Rounding){has_nan || !(scale < INFINITY) ? NAN : scale, (int32_t)(zero - taken_off)};
}

Rounding round_row(const Weight *weight, const float *row, int64_t count, int64_t stride, void *rounded)
{
    if (weight->kind == INT8) return quantize_row(row, count, stride, weight->signed_levels, rounded);
#if MULTIPLIES_BFLOAT16
    for (int64_t k = 0, start = 0; k < count; k += KC, start += stride)
        round_to_bfloat16(row + start, count - k < KC ? count - k : KC, (uint16_t *)rounded + start);
#endif
    return (Rounding){1.0f, 0};
}
