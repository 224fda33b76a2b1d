/* Weights in panels, and the multiplication of rows by one panel.

   A weight is laid out as the inner loop reads it: in panels of NR outputs (two vector registers), input by input. With
   few rows, a product is bound by the memory that the weight takes: a panel is read once, in order, well ahead of its
   use. With many, it is bound by arithmetic: a panel stays in the first caches while MR rows at a time are multiplied
   by it.

   Weights are float32, bfloat16 (widened as they are read) or 8-bit integers. Rows are rounded to integers too before
   they meet these, as `kernels/cpu/int8.py` defines it, and shifted by their zero to be unsigned; the sums are exact.
 */

#ifndef ELMO_PANELS_H
#define ELMO_PANELS_H

#include "blocking.h"

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

/* `panels` are [outputs / NR][inputs][NR]. In bfloat16, a word of 32 bits holds outputs l (low half) and LANES + l of a
   panel; 8-bit integers are [outputs / NR][inputs / 4][NR][4]. */
typedef struct {
    const void *panels;
    const float *scale;  /* [outputs], of integers */
    const int32_t *sums; /* [outputs], of integers: the sum of an output's weights */
    int64_t kind, outputs, inputs;
    int64_t signed_levels; /* largest absolute integer of a row that has negative values */
} Weight;

/* How a row was rounded: its values are about (integer - zero) * scale. */
typedef struct {
    float scale;
    int32_t zero;
} Rounding;

/* Part of a panel, from one of its inputs on. */
const void *panel_at(const Weight *weight, int64_t panel, int64_t input);

/* output [rows][NR] = input [rows][inputs] * part of a panel + (start [NR], or the output itself).

   Rows are floats; for a weight of integers they are bytes, `start` is ignored, and the sums become floats in
   `dequantize_outputs`. `expanded` is scratch of [KC][NR] floats. */
void multiply_panel(const Weight *weight, const void *part_of_panel, const void *input, int64_t rows,
                    int64_t input_stride, int64_t inputs, float *output, int64_t output_stride, const float *start,
                    int accumulate, float *expanded);

/* output [4 * NR] = one row * panels `panel` to `panel` + 3 of bfloat16, all at once: one by one, each sum would wait
   for its last addition. (In float32 memory is the limit, and is best read in one stream.) The order of additions is
   that of `multiply_panel`: a row has the same bits alone and among others.

   The row is [inputs], in stretches of KC that lie `row_stride` apart. */
void multiply_row_by_four_panels(const float *row, int64_t row_stride, const Weight *weight, int64_t panel,
                                 float *output);

/* Turn a panel's sums of integers into floats, in place: (sum - zero * sum of the weights) * scale of the output *
   scale of the row + bias. Other weights' outputs stay as they are. */
void dequantize_outputs(const Weight *weight, int64_t panel, const Rounding *roundings, const float *bias, int64_t rows,
                        float *output, int64_t output_stride);

/* Round one row to integers. The row is [count], in stretches of KC that lie `stride` apart, and so is the result. The
   scale is NaN where the row holds NaN or infinity. */
Rounding quantize_row(const float *row, int64_t count, int64_t stride, int64_t signed_levels, uint8_t *quantized);

#endif
