/* Sigmoid, tanh, softmax and unit SiLU of vectors, and the backward pass of softmax. */
#ifndef FWRL_ACTIVATIONS_H
#define FWRL_ACTIVATIONS_H

#include <math.h>
#include <stdint.h>

#include "vectors.h"

/* exp(x) up to two units in the last place, for any x: a power of two times a polynomial
   (the classic reduction of Cephes, Moshier 1989). */
INLINE float exponential(float x) {
    x = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;
    float n = __builtin_floorf(x * 1.44269504088896341f + 0.5f);
    x = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    union {
        int32_t bits;
        float number;
    } power = {((int32_t)n + 127) << 23};
    return (p * x * x + x + 1.0f) * power.number;
}

INLINE float sigmoid(float x) {
    /* NaN stays NaN */
    return x != x ? x : 1.0f / (1.0f + exponential(-x));
}

/* y <- s / sqrt(|s|^2 + epsilon) with s = SiLU(x) = x sigmoid(x). */
INLINE void unit_silu(float *restrict y, const float *restrict x, int64_t size, float epsilon) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < size; k++) {
        y[k] = x[k] * sigmoid(x[k]);
        total += y[k] * y[k];
    }
    float scale = 1.0f / sqrtf(total + epsilon);
#pragma omp simd
    for (int64_t k = 0; k < size; k++)
        y[k] *= scale;
}

/* y <- softmax(x); y may be x. */
INLINE void softmax(float *y, const float *x, int64_t size) {
    float largest = x[0], total = 0.0f;
#pragma omp simd reduction(max : largest)
    for (int64_t k = 0; k < size; k++)
        largest = x[k] > largest ? x[k] : largest;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < size; k++) {
        y[k] = exponential(x[k] - largest);
        total += y[k];
    }
    float scale = 1.0f / total;
#pragma omp simd
    for (int64_t k = 0; k < size; k++)
        y[k] *= scale;
}

/* The gradient of x, from y = softmax(x) and its gradient: y (to_y - y . to_y). */
INLINE void softmax_back(float *to_x, const float *y, const float *to_y, int64_t size) {
    float along = 0.0f;
#pragma omp simd reduction(+ : along)
    for (int64_t k = 0; k < size; k++)
        along += y[k] * to_y[k];
#pragma omp simd
    for (int64_t k = 0; k < size; k++)
        to_x[k] = y[k] * (to_y[k] - along);
}

INLINE float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

INLINE void hyperbolic_tangents(float *y, const float *x, int64_t size) {
#pragma omp simd
    for (int64_t k = 0; k < size; k++)
        y[k] = hyperbolic_tangent(x[k]);
}

#endif
