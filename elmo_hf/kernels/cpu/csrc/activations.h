/* Point-wise functions of vectors, within a few units in the last place of float32. NaN stays NaN. */

#ifndef ELMO_ACTIVATIONS_H
#define ELMO_ACTIVATIONS_H

#include "vectors.h"

/* Clip x to [-bound, bound]. */
INLINE vfloat clip(vfloat x, float bound)
{
    x = select_lanes(x > broadcast(bound), broadcast(bound), x);
    return select_lanes(x < broadcast(-bound), broadcast(-bound), x);
}

/* Cephes' expf: 2 ** n times a polynomial of the remainder, which is at most ln(2) / 2. */
INLINE vfloat exponential(vfloat x)
{
    x = select_lanes(x > broadcast(88.0f), broadcast(88.0f), x);
    x = select_lanes(x < broadcast(-87.3f), broadcast(-87.3f), x);
    const float to_integer = 12582912.0f; /* 1.5 * 2 ** 23: adding it rounds to an integer */
    vfloat n = (x * 1.44269504f + to_integer) - to_integer;
    vfloat r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vfloat p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vint power = (__builtin_convertvector(n, vint) + 127) << 23;
    return p * (vfloat)power;
}

INLINE vfloat sigmoid(vfloat x) { return 1.0f / (1.0f + exponential(-x)); }

/* Cephes' tanhf: a polynomial near zero, which keeps small values exact. */
INLINE vfloat hyperbolic_tangent(vfloat x)
{
    vint sign = (vint)x & (vint)broadcast(-0.0f);
    vfloat magnitude = (vfloat)((vint)x ^ sign);
    vfloat z = x * x;
    vfloat p = broadcast(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    p = p * z * x + x;
    vfloat far = 1.0f - 2.0f / (exponential(magnitude + magnitude) + 1.0f);
    return select_lanes(magnitude < broadcast(0.625f), p, (vfloat)((vint)far | sign));
}

#endif
