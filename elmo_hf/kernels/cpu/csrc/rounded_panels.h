/* Rounded rows times panels, by instructions that multiply and add groups of four bytes: four int8 or two bfloat16.
   Internal to panels.c. */

#ifndef ELMO_ROUNDED_PANELS_H
#define ELMO_ROUNDED_PANELS_H

#include "blocking.h"

/* Bits in which the products of int8 are added. In 16 bits, only rows with reduced levels (`signed_levels`) do not
   overflow. 0: no such instruction. */
#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__)) || defined(__ARM_FEATURE_DOTPROD)
#define INT8_SUM_BITS 32
#elif defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))
#define INT8_SUM_BITS 16
#else
#define INT8_SUM_BITS 0
#endif

/* 1 if that instruction takes signed inputs. Others take unsigned ones, shifted by their zero point. */
#ifdef __ARM_FEATURE_DOTPROD
#define SIGNED_INPUTS 1
#else
#define SIGNED_INPUTS 0
#endif

/* 1 if bfloat16 is multiplied by an instruction. Otherwise its panels are widened to float32. */
#ifdef __AVX512BF16__
#define MULTIPLIES_BFLOAT16 1
#else
#define MULTIPLIES_BFLOAT16 0
#endif

#if INT8_SUM_BITS
/* output [rows][NR] = input [rows][inputs] * panel [inputs / 4][NR][4] + (0, or the output itself). The sums are
   32-bit integers stored in place of floats. */
void multiply_int8_panel(const uint8_t *input, int64_t rows, int64_t input_stride, const void *panel, int64_t inputs,
                         float *output, int64_t output_stride, int accumulate);
#endif

#if MULTIPLIES_BFLOAT16
/* output [rows][NR] = input [rows][inputs] * panel [inputs / 2][NR][2] + (start [NR] or 0, or the output itself). */
void multiply_bfloat16_panel(const uint16_t *input, int64_t rows, int64_t input_stride, const void *panel,
                             int64_t inputs, float *output, int64_t output_stride, const float *start, int accumulate);

/* Round to the nearest bfloat16, halves to even; subnormals become zero. `count` is a multiple of LANES. */
void round_to_bfloat16(const float *values, int64_t count, uint16_t *rounded);
#endif

#endif
