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

/* The natural logarithm of a normal positive number, by the same source. */
INLINE float logarithm(float x) {
    union {
        float number;
        int32_t bits;
    } part = {x};
    int32_t power = (part.bits >> 23) - 126;
    part.bits = (part.bits & 0x7fffff) | 0x3f000000;
    /* the mantissa, from the root of a half to that of two */
    int small = part.number < 0.707106781186547524f;
    float e = (float)(power - small), m = part.number + (small ? part.number : 0.0f) - 1.0f;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    return m + (p * m * m * m - 2.12194440e-4f * e - 0.5f * m * m) + 0.693359375f * e;
}

INLINE float sigmoid(float x) {
    /* NaN stays NaN */
    return x != x ? x : 1.0f / (1.0f + exponential(-x));
}

/* x <- x sigmoid(x) */
INLINE void silu(float *x, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++)
        x[i] *= sigmoid(x[i]);
}

/* The normal distribution function: half of erfc, by the Chebyshev fit of Press et al. (1992), within
   1.2e-7 of itself, also where it is tiny. */
INLINE float normal(float x) {
    float z = __builtin_fabsf(x) * 0.70710678118654752f;
    float t = 1.0f / (1.0f + 0.5f * z), p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    float beyond = 0.5f * t * exponential(p - z * z);
    return x > 0.0f ? 1.0f - beyond : beyond;
}

INLINE float gelu(float x) { return x * normal(x); }

/* Its slope, given `normal(x)`. */
INLINE float gelu_slope(float x, float part) {
    return part + x * 0.39894228040143268f * exponential(-0.5f * x * x);
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
