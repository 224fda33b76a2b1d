/* float32 rows times one float32 or bfloat16 panel. See panels.h for panels and their parts. */

#ifndef ELMO_FLOAT_PANELS_H
#define ELMO_FLOAT_PANELS_H

#include "blocking.h"

/* output [rows][NR] = input [rows][inputs] * panel [inputs][NR] + (start [NR], or the output itself).
   `expanded` is scratch of [inputs][NR] floats. */
void multiply_float_panel(const float *input, int64_t rows, int64_t input_stride, const void *panel, int is_bfloat16,
                          int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate,
                          float *expanded);

/* The same for float32 panels, and rows in the layout of outputs of other panels: [inputs / NR][...][NR], panels being
   `panel_stride` floats apart. `inputs` is a multiple of NR. `next` is the panel to prefetch for the next call. */
void multiply_rows_of_panels(const float *input, int64_t rows, int64_t panel_stride, const float *panel, int64_t inputs,
                             float *output, int64_t output_stride, int accumulate, const float *next);

/* The same for rows in tiles: [ceil(rows / MR)][...][MR], tiles being `tile_stride` floats apart. */
void multiply_rows_of_tiles(const float *input, int64_t rows, int64_t tile_stride, const float *panel, int64_t inputs,
                            float *output, int64_t output_stride, const float *start, int accumulate,
                            const float *next);

/* Outputs of one row from four consecutive panels of bfloat16; see panels.h. */
void multiply_row_by_four_bfloat16_panels(const float *row, int64_t row_stride, const void *panels, int64_t inputs,
                                          float *output);

#endif
