/* Dense layers of up to WIDTH streams at once. A stream is a lane: [size WIDTH], so that nothing is
   summed across a vector, no stream meets another one, and how many there are changes no result.
   Weights are read where they lie. */
#ifndef FWRL_LANES_H
#define FWRL_LANES_H

#include "activations.h"
#include "weights.h"

/* Weight [outputs inputs], bias [outputs]; no bias: null. */
typedef struct {
    const float *weight, *bias;
    int64_t inputs, outputs;
} Linear;

/* A norm over `size` numbers: their mean is removed if `centred`. No scale or shift: null. */
typedef struct {
    const float *scale, *shift;
    int64_t size;
    int centred;
    float epsilon;
} Norm;

/* Rows become columns: each round moves the lowest bit of the column to the top of the row's. */
INLINE void transpose(vec *rows) {
    vec next[WIDTH];
    for (int round = 1; round < WIDTH; round *= 2) {
        for (int i = 0; i < WIDTH / 2; i++) {
            next[i] = FIRST(rows[2 * i], rows[2 * i + 1], 1);
            next[i + WIDTH / 2] = SECOND(rows[2 * i], rows[2 * i + 1], 1);
        }
        memcpy(rows, next, sizeof next);
    }
}

/* The first numbers of a vector; all of them in one instruction. */
INLINE vec load_some(const float *from, int64_t count) {
    vec x = {0};
    if (count >= WIDTH)
        return load(from);
    memcpy(&x, from, count * sizeof(float));
    return x;
}

INLINE void store_some(float *to, vec x, int64_t count) {
    if (count >= WIDTH)
        store(to, x);
    else
        memcpy(to, &x, count * sizeof(float));
}

/* Rows [count size], `row` floats apart, to lanes; those without a row are zero. */
static void to_lanes(float *to, const float *from, int64_t row, int64_t count, int64_t size) {
    for (int64_t k = 0; k < size; k += WIDTH) {
        vec tile[WIDTH];
        for (int64_t i = 0; i < WIDTH; i++)
            tile[i] = i < count ? load_some(from + i * row + k, size - k) : (vec){0};
        transpose(tile);
        for (int64_t i = 0; i < WIDTH && k + i < size; i++)
            store(to + (k + i) * WIDTH, tile[i]);
    }
}

/* The reverse. */
static void from_lanes(float *to, const float *from, int64_t row, int64_t count, int64_t size) {
    for (int64_t k = 0; k < size; k += WIDTH) {
        vec tile[WIDTH];
        for (int64_t i = 0; i < WIDTH; i++)
            tile[i] = k + i < size ? load(from + (k + i) * WIDTH) : (vec){0};
        transpose(tile);
        for (int64_t i = 0; i < count; i++)
            store_some(to + i * row + k, tile[i], size - k);
    }
}

/* COUNT outputs, a multiple of 4. Several sums at once hide how long one takes; rows of weights in
   groups of four leave registers for their addresses. */
#define OUTPUTS(COUNT)                                                                             \
    INLINE void outputs_##COUNT(float *to, const float *x, Linear map, int64_t first) {            \
        vec sums[COUNT];                                                                           \
        const float *rows[COUNT / 4];                                                              \
        for (int i = 0; i < COUNT; i++)                                                            \
            sums[i] = (vec){0} + (map.bias ? map.bias[first + i] : 0.0f);                          \
        for (int i = 0; i < COUNT / 4; i++)                                                        \
            rows[i] = map.weight + (first + 4 * i) * map.inputs;                                   \
        for (int64_t k = 0; k < map.inputs; k++) {                                                 \
            vec number = load(x + k * WIDTH);                                                      \
            for (int i = 0; i < COUNT; i++)                                                        \
                sums[i] += rows[i / 4][k + i % 4 * map.inputs] * number;                           \
        }                                                                                          \
        for (int i = 0; i < COUNT; i++)                                                            \
            store(to + (first + i) * WIDTH, sums[i]);                                              \
    }
OUTPUTS(4)
OUTPUTS(8)
#if WIDTH == 16
/* where there are registers for so many sums */
OUTPUTS(16)
#endif

INLINE void output(float *to, const float *x, Linear map, int64_t i) {
    vec total = (vec){0} + (map.bias ? map.bias[i] : 0.0f);
    for (int64_t k = 0; k < map.inputs; k++)
        total += map.weight[i * map.inputs + k] * load(x + k * WIDTH);
    store(to + i * WIDTH, total);
}

static void linear(float *to, const float *x, Linear map) {
    int64_t i = 0;
#if WIDTH == 16
    for (; i + 16 <= map.outputs; i += 16)
        outputs_16(to, x, map, i);
#endif
    for (; i + 8 <= map.outputs; i += 8)
        outputs_8(to, x, map, i);
    for (; i + 4 <= map.outputs; i += 4)
        outputs_4(to, x, map, i);
    for (; i < map.outputs; i++)
        output(to, x, map, i);
}

/* The sum over a lane, or of the squared distances to `middle`; four sums at once. */
INLINE vec lane_sum(const float *x, int64_t size) {
    vec sums[4] = {{0}};
    for (int64_t k = 0; k < size; k++)
        sums[k % 4] += load(x + k * WIDTH);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

INLINE vec lane_squares(const float *x, vec middle, int64_t size) {
    vec sums[4] = {{0}};
    for (int64_t k = 0; k < size; k++) {
        vec distance = load(x + k * WIDTH) - middle;
        sums[k % 4] += distance * distance;
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* `to` may be `x`. */
static void normalise(float *to, const float *x, Norm norm) {
    vec middle = {0}, scale;
    if (norm.centred)
        middle = lane_sum(x, norm.size) / (float)norm.size;
    scale = lane_squares(x, middle, norm.size) / (float)norm.size + norm.epsilon;
    for (int lane = 0; lane < WIDTH; lane++)
        scale[lane] = 1.0f / sqrtf(scale[lane]);
    for (int64_t k = 0; k < norm.size; k++) {
        vec y = (load(x + k * WIDTH) - middle) * scale;
        if (norm.scale)
            y *= norm.scale[k];
        if (norm.shift)
            y += norm.shift[k];
        store(to + k * WIDTH, y);
    }
}

static void add_lanes(float *restrict to, const float *restrict x, int64_t size) {
    for (int64_t k = 0; k < size * WIDTH; k += WIDTH)
        store(to + k, load(to + k) + load(x + k));
}

static void gelu_lanes(float *x, int64_t size) {
#pragma omp simd
    for (int64_t k = 0; k < size * WIDTH; k++)
        x[k] = gelu(x[k]);
}

#endif
