/* Weights in panels, and the multiplication of rows by one panel.

   A weight is laid out in the order of the inner loop: in panels of NR outputs (two vector registers), input by input.
   With few rows, a matmul is memory-bound: a panel is read once, in order, and prefetched well ahead of its use. With
   many, it is compute-bound: a panel stays in the L1 and L2 caches while MR rows at a time are multiplied by it.

   Weights are float32, bfloat16 or int8. Bfloat16 is widened to float32 as it is read, or, if the CPU multiplies it,
   rows are rounded to bfloat16, too, and sums are float32. For int8 weights, rows are quantized, as
   `kernels/cpu/int8.py` defines it, and shifted by their zero point if the CPU needs unsigned inputs; the integer sums
   are exact. */

#ifndef ELMO_PANELS_H
#define ELMO_PANELS_H

#include "blocking.h"

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

/* `panels` are [outputs / NR][inputs][NR]. Int8 panels are [outputs / NR][inputs / 4][NR][4], and so are those of
   bfloat16 if the CPU multiplies it, with pairs: [outputs / NR][inputs / 2][NR][2]. In bfloat16 to be widened, a 32-bit
   word holds outputs l (low half) and LANES + l of a panel. */
typedef struct {
    const void *panels;
    const float *scale;  /* [outputs], int8 only */
    const int32_t *sums; /* [outputs], int8 only: the sum of an output's weights */
    int64_t kind, outputs, inputs;
    int64_t signed_levels; /* largest absolute integer of a row that has negative values */
} Weight;

/* Quantization of a row: its values are about (integer - zero) * scale. */
typedef struct {
    float scale;
    int32_t zero;
} Rounding;

/* Bytes of an input of a row, if the weight's kind requires rounded rows; 0: rows are float32. */
int64_t rounded_bytes(const Weight *weight);

/* Address of a panel's part that starts at an input. */
const void *panel_at(const Weight *weight, int64_t panel, int64_t input);

/* output [rows][NR] = input [rows][inputs] * part of a panel + (start [NR], or the output itself).

   Rows are floats, or the result of `round_row`. For an int8 weight, `start` is ignored, and `dequantize_outputs`
   converts the sums to floats. `expanded` is scratch of [KC][NR] floats. */
void multiply_panel(const Weight *weight, const void *part_of_panel, const void *input, int64_t rows,
                    int64_t input_stride, int64_t inputs, float *output, int64_t output_stride, const float *start,
                    int accumulate, float *expanded);

/* output [4 * NR] = one float row * bfloat16 panels `panel` to `panel` + 3, widened. Computing four panels together
   hides the latency of additions. (In float32, memory is the limit, and is best read in one stream.) Additions have the
   order of `multiply_panel`, so that a row gives the same bits alone and in a batch.

   The row is [inputs], in segments of KC that are `row_stride` apart. */
void multiply_row_by_four_panels(const float *row, int64_t row_stride, const Weight *weight, int64_t panel,
                                 float *output);

/* Convert a panel's integer sums to floats, in place: (sum - zero * sum of the weights) * scale of the output *
   scale of the row + bias. Outputs of other weights are left unchanged. */
void dequantize_outputs(const Weight *weight, int64_t panel, const Rounding *roundings, const float *bias, int64_t rows,
                        float *output, int64_t output_stride);

/* Round one row as the weight's kind requires. The row is [count], in segments of KC that are `stride` apart, and so is
   the result, in units of `rounded_bytes`. The scale is NaN if the row holds NaN or infinity and becomes integers. */
Rounding round_row(const Weight *weight, const float *row, int64_t count, int64_t stride, void *rounded);

#endif
