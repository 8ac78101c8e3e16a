/* What squashes vectors: softmax, tanh, and their ways back. */
#ifndef FWRL_SOFTMAX_H
#define FWRL_SOFTMAX_H

#include <stdint.h>

#include "unit.h"

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

INLINE float tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

INLINE void hyperbolic_tangent(float *y, const float *x, int64_t size) {
#pragma omp simd
    for (int64_t k = 0; k < size; k++)
        y[k] = tangent(x[k]);
}

#endif
