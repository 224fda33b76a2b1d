/* Quantized rows times int8 panels. Internal to panels.c, except for HAS_INT8. */

#ifndef ELMO_INT8_PANELS_H
#define ELMO_INT8_PANELS_H

#include "blocking.h"

/* Targets with an instruction that multiplies and adds bytes. */
#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__)) || defined(__ARM_FEATURE_DOTPROD)
#define HAS_INT8 1
#else
#define HAS_INT8 0
#endif

/* 1 if that instruction takes signed inputs. Others take unsigned ones, shifted by their zero point. */
#ifdef __ARM_FEATURE_DOTPROD
#define SIGNED_INPUTS 1
#else
#define SIGNED_INPUTS 0
#endif

#if HAS_INT8
/* output [rows][NR] = input [rows][inputs] * panel [inputs / 4][NR][4] + (0, or the output itself). The sums are
   32-bit integers stored in place of floats. */
void multiply_int8_panel(const uint8_t *input, int64_t rows, int64_t input_stride, const void *panel, int64_t inputs,
                         float *output, int64_t output_stride, int accumulate);
#endif

#endif
