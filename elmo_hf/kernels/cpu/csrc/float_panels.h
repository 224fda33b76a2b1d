/* Rows of float32 times panels of float32 or bfloat16. Internal to panels.c. */

#ifndef ELMO_FLOAT_PANELS_H
#define ELMO_FLOAT_PANELS_H

#include "blocking.h"

/* output [rows][NR] = input [rows][inputs] * panel [inputs][NR] + (start [NR], or the output itself).
   `expanded` is scratch of [inputs][NR] floats. */
void multiply_float_panel(const float *input, int64_t rows, int64_t input_stride, const void *panel, int is_bfloat16,
                          int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate,
                          float *expanded);

/* Outputs of one row from four consecutive panels of bfloat16; see panels.h. */
void multiply_row_by_four_bfloat16_panels(const float *row, int64_t row_stride, const void *panels, int64_t inputs,
                                          float *output);

#endif
