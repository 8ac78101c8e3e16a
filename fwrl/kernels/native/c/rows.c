/* What stands between the matrix products of a residual stack, row by row, each in one pass over
   memory forward and backward: additions to the stream with its norm, and GELU with its bias.

   Sums over rows are made of sums over blocks of them, so that they do not depend on the threads.

   This file is compiled once for each set of instructions (VARIANT), and dispatch.c chooses among
   them. */

#include "activations.h"
#include "calls.h"
#include "weights.h"

/* Rows of a block. */
enum { BLOCK = 128 };

INLINE int64_t blocks_of(int64_t rows) { return (rows + BLOCK - 1) / BLOCK; }
INLINE int64_t end_of(int64_t block, int64_t rows) {
    return (block + 1) * BLOCK < rows ? (block + 1) * BLOCK : rows;
}

/* to <- the sum of arrays that lie `size` floats apart; null: nowhere. */
static void add_up(float *to, const float *from, int64_t blocks, int64_t size, int64_t width) {
    if (!to)
        return;
    memset(to, 0, width * sizeof(float));
    for (int64_t block = 0; block < blocks; block++, from += size)
#pragma omp simd
        for (int64_t k = 0; k < width; k++)
            to[k] += from[k];
}

/* Returns the sum over the row. */
INLINE float add_row(float *sum, const float *x, const float *added, const float *bias,
                     int64_t width) {
    float total = 0.0f;
    if (added && bias) {
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < width; k++)
            total += sum[k] = x[k] + (added[k] + bias[k]);
    } else if (added) {
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < width; k++)
            total += sum[k] = x[k] + added[k];
    } else {
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < width; k++)
            total += x[k];
    }
    return total;
}

static void norm_row(const SumNorm *f, int64_t row) {
    int64_t width = f->width, at = row * width;
    const float *restrict scale = f->scale, *restrict shift = f->shift;
    const float *x = f->input + at;
    float *y = f->output + at, squares = 0.0f;
    float mean = add_row(f->added ? f->sum + at : NULL, x, f->added ? f->added + at : NULL, f->bias,
                         width) / (float)width;
    if (f->added)
        x = f->sum + at;
#pragma omp simd reduction(+ : squares)
    for (int64_t k = 0; k < width; k++)
        squares += (x[k] - mean) * (x[k] - mean);
    float inverse = 1.0f / sqrtf(squares / (float)width + (float)f->epsilon);
#pragma omp simd
    for (int64_t k = 0; k < width; k++)
        y[k] = (x[k] - mean) * inverse * scale[k] + shift[k];
    f->mean[row] = mean, f->inverse[row] = inverse;
}

int NAME(sum_norm_forward)(const SumNorm *f) {
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1) schedule(static)
    for (int64_t row = 0; row < f->rows; row++)
        norm_row(f, row);
    return 0;
}

/* The gradient of the sum, and what the row adds to those of scale, shift and bias. */
static void norm_row_back(const SumNorm *f, int64_t row, float *restrict to_scale,
                          float *restrict to_shift, float *restrict to_bias) {
    int64_t width = f->width, at = row * width;
    const float *restrict scale = f->scale, *to_y = f->from_output + at, *x = f->sum + at;
    const float *from = f->from_sum ? f->from_sum + at : NULL;
    float *to_x = f->to_sum + at, mean = f->mean[row], inverse = f->inverse[row];
    float total = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : total, along)
    for (int64_t k = 0; k < width; k++) {
        float g = to_y[k], y = (x[k] - mean) * inverse;
        to_scale[k] += g * y;
        to_shift[k] += g;
        total += g * scale[k];
        along += g * scale[k] * y;
    }
    total /= (float)width, along /= (float)width;
    if (from) {
#pragma omp simd
        for (int64_t k = 0; k < width; k++) {
            float y = (x[k] - mean) * inverse;
            to_x[k] = from[k] + inverse * (to_y[k] * scale[k] - total - along * y);
            to_bias[k] += to_x[k];
        }
    } else {
#pragma omp simd
        for (int64_t k = 0; k < width; k++) {
            float y = (x[k] - mean) * inverse;
            to_x[k] = inverse * (to_y[k] * scale[k] - total - along * y);
            to_bias[k] += to_x[k];
        }
    }
}

int NAME(sum_norm_backward)(const SumNorm *f) {
    int64_t blocks = blocks_of(f->rows), width = f->width, size = 3 * padded(width);
    float *parts = calloc(blocks * size + 1, sizeof(float));
    if (!parts)
        return 1;
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1) schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        float *part = parts + block * size;
        for (int64_t row = block * BLOCK; row < end_of(block, f->rows); row++)
            norm_row_back(f, row, part, part + padded(width), part + 2 * padded(width));
    }
    add_up(f->to_scale, parts, blocks, size, width);
    add_up(f->to_shift, parts + padded(width), blocks, size, width);
    add_up(f->to_bias, parts + 2 * padded(width), blocks, size, width);
    free(parts);
    return 0;
}

int NAME(bias_gelu_forward)(const BiasGelu *f) {
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1) schedule(static)
    for (int64_t row = 0; row < f->rows; row++) {
        float *restrict x = f->rows_in + row * f->width, *restrict y = f->output + row * f->width;
        const float *restrict bias = f->bias;
#pragma omp simd
        for (int64_t k = 0; k < f->width; k++) {
            float sum = x[k] + bias[k], part = normal(sum);
            y[k] = sum * part;
            x[k] = gelu_slope(sum, part);
        }
    }
    return 0;
}

int NAME(bias_gelu_backward)(const BiasGelu *f) {
    int64_t blocks = blocks_of(f->rows), size = padded(f->width);
    float *parts = calloc(blocks * size + 1, sizeof(float));
    if (!parts)
        return 1;
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1) schedule(static)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t row = block * BLOCK; row < end_of(block, f->rows); row++) {
            const float *restrict slope = f->rows_in + row * f->width;
            float *restrict to_x = f->output + row * f->width, *restrict part = parts + block * size;
#pragma omp simd
            for (int64_t k = 0; k < f->width; k++) {
                to_x[k] *= slope[k];
                part[k] += to_x[k];
            }
        }
    add_up(f->to_bias, parts, blocks, size, f->width);
    free(parts);
    return 0;
}
