/* Vectors as wide as the target's registers, by the vector extensions of GCC and Clang. */

#ifndef ELMO_VECTORS_H
#define ELMO_VECTORS_H

#include <stdint.h>

#if defined(__AVX512F__)
#define LANES 16 /* floats in a vector register */
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))
/* Unroll the following loop completely, so that its arrays become registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Keep two vectors in registers: compilers tend to load the operands of several rows ahead and run out of registers. */
#if defined(__AVX512F__)
#define KEEP_IN_REGISTERS(one, other) __asm__("" : "+v"(one), "+v"(other))
#elif defined(__x86_64__)
#define KEEP_IN_REGISTERS(one, other) __asm__("" : "+x"(one), "+x"(other))
#elif defined(__aarch64__)
#define KEEP_IN_REGISTERS(one, other) __asm__("" : "+w"(one), "+w"(other))
#else
#define KEEP_IN_REGISTERS(one, other) ((void)0)
#endif

typedef float vfloat __attribute__((vector_size(4 * LANES)));
typedef int32_t vint __attribute__((vector_size(4 * LANES)));

/* The same types for memory access at any address. */
typedef float vfloat_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vint_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t vuint_memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int16_t vshort_memory __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint8_t vbyte_memory __attribute__((vector_size(LANES), aligned(1), may_alias));

INLINE vfloat load(const float *source) { return *(const vfloat_memory *)source; }
INLINE void store(float *target, vfloat value) { *(vfloat_memory *)target = value; }
INLINE vfloat broadcast(float value) { return value - (vfloat){0}; }

/* `yes` in the lanes where `mask` is all ones, `no` where it is all zeros; comparisons give such masks. */
INLINE vfloat select_lanes(vint mask, vfloat yes, vfloat no)
{
    return (vfloat)((mask & (vint)yes) | (~mask & (vint)no));
}

#endif
