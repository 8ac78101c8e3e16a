/* The step of Adam (Kingma and Ba 2015) on all parameters, with their joint gradient clipped to a
   norm, in two passes over memory.

   This file is compiled once for each set of instructions (VARIANT), and dispatch.c chooses among
   them. */

#include <math.h>

#include "calls.h"
#include "weights.h"

/* Numbers that one thread takes at a time: the order of sums does not depend on the threads. */
enum { BLOCK = 16384 };

/* Part of an array. */
typedef struct {
    int64_t array, first, count;
} Part;

INLINE int64_t blocks_of(int64_t size) { return (size + BLOCK - 1) / BLOCK; }

static Part part_of(const Adam *call, int64_t block) {
    int64_t array = 0;
    for (; block >= blocks_of(call->sizes[array]); array++)
        block -= blocks_of(call->sizes[array]);
    int64_t first = block * BLOCK, rest = call->sizes[array] - first;
    return (Part){array, first, rest < BLOCK ? rest : BLOCK};
}

static double squared_norm(const Adam *call, int64_t block) {
    Part part = part_of(call, block);
    const float *x = call->gradients[part.array] + part.first;
    double total = 0.0;
    for (int64_t from = 0; from < part.count; from += 256) {
        int64_t some = part.count - from < 256 ? part.count - from : 256;
        float here = 0.0f;
#pragma omp simd reduction(+ : here)
        for (int64_t i = from; i < from + some; i++)
            here += x[i] * x[i];
        total += here;
    }
    return total;
}

/* `factor` clips the gradient. */
static void move(const Adam *call, int64_t block, float factor) {
    Part part = part_of(call, block);
    float *restrict x = call->values[part.array] + part.first;
    float *restrict mean = call->means[part.array] + part.first;
    float *restrict square = call->squares[part.array] + part.first;
    const float *restrict gradient = call->gradients[part.array] + part.first;
    double time = *call->times[part.array];
    float mean_decay = (float)call->mean_decay, square_decay = (float)call->square_decay;
    float mean_rest = (float)(1.0 - call->mean_decay), square_rest = (float)(1.0 - call->square_decay);
    float rate = (float)(call->rate / (1.0 - pow(call->mean_decay, time)));
    float root = (float)(1.0 / sqrt(1.0 - pow(call->square_decay, time)));
    float epsilon = (float)call->epsilon;
#pragma omp simd
    for (int64_t i = 0; i < part.count; i++) {
        float g = factor * gradient[i];
        mean[i] = mean_decay * mean[i] + mean_rest * g;
        square[i] = square_decay * square[i] + square_rest * g * g;
        x[i] -= rate * mean[i] / (sqrtf(square[i]) * root + epsilon);
    }
}

int NAME(adam)(const Adam *call) {
    int64_t blocks = 0;
    for (int64_t i = 0; i < call->arrays; i++)
        blocks += blocks_of(call->sizes[i]);
    double *parts = malloc((blocks + 1) * sizeof(double)), total = 0.0;
    if (!parts)
        return 1;
#pragma omp parallel for num_threads(call->threads) if (call->threads > 1)
    for (int64_t i = 0; i < blocks; i++)
        parts[i] = squared_norm(call, i);
    for (int64_t i = 0; i < blocks; i++)
        total += parts[i];
    free(parts);
    *call->norm = (float)sqrt(total);
    if (!isfinite(*call->norm))
        return 0;
    for (int64_t i = 0; i < call->arrays; i++)
        *call->times[i] += 1.0f;
    double factor = call->longest / (*call->norm + 1e-6);
    float clipped = factor < 1.0 ? (float)factor : 1.0f;
#pragma omp parallel for num_threads(call->threads) if (call->threads > 1)
    for (int64_t i = 0; i < blocks; i++)
        move(call, i, clipped);
    return 0;
}
