/* What a scan does at several times in one pass: addresses of a span of times, and passes over the
   weights that end one time and begin the next. */
#ifndef FWRL_SPANS_H
#define FWRL_SPANS_H

#include "activations.h"
#include "weights.h"

/* The sum of the numbers of a vector, without waiting for one after the other. */
INLINE float total_of(vec x) {
#if WIDTH == 16
    x = FIRST(x, x, 8) + SECOND(x, x, 8);
#endif
#if WIDTH >= 8
    x = FIRST(x, x, 4) + SECOND(x, x, 4);
#endif
    x = FIRST(x, x, 2) + SECOND(x, x, 2);
    x = FIRST(x, x, 1) + SECOND(x, x, 1);
    return x[0];
}

INLINE float dot(const float *a, const float *b, int64_t size) {
    vec total = {0};
    for (int64_t i = 0; i < size; i += WIDTH)
        total += load(a + i) * load(b + i);
    return total_of(total);
}

/* Padded rows to unit length after SiLU, and, if wanted, the slope of SiLU over the length. */
static void unit_rows(float *restrict y, float *restrict slope, int64_t rows, int64_t size,
                      float epsilon) {
    if (slope) {
#pragma omp simd
        for (int64_t i = 0; i < rows * size; i++) {
            float x = y[i], part = sigmoid(x);
            y[i] = x * part;
            slope[i] = part * (1.0f + x * (1.0f - part));
        }
    } else {
#pragma omp simd
        for (int64_t i = 0; i < rows * size; i++)
            y[i] *= sigmoid(y[i]);
    }
    for (int64_t i = 0; i < rows; i++, y += size) {
        float scale = 1.0f / sqrtf(dot(y, y, size) + epsilon);
        for (int64_t k = 0; k < size; k += WIDTH)
            store(y + k, scale * load(y + k));
        if (!slope)
            continue;
        for (int64_t k = 0; k < size; k += WIDTH)
            store(slope + k, scale * load(slope + k));
        slope += size;
    }
}

/* to_y <- slope (to_y - y (y . to_y)), the gradient before SiLU, for each row. */
static void unit_rows_back(float *to_y, const float *y, const float *slope, int64_t rows,
                           int64_t size) {
    for (int64_t i = 0; i < rows; i++, to_y += size, y += size, slope += size) {
        float along = dot(y, to_y, size);
        for (int64_t k = 0; k < size; k += WIDTH)
            store(to_y + k, load(slope + k) * (load(to_y + k) - along * load(y + k)));
    }
}

/* S <- a S + k^T u, y <- q S, and what the next key reads there: known <- next S, for COUNT vectors
   of the columns. */
#define WRITE_AND_READ(COUNT)                                                                      \
    INLINE void write_and_read_##COUNT(float *y, const float *q, float *known, const float *next,  \
                                       float a, const float *k, const float *u, float *S,          \
                                       int64_t keys, int64_t columns) {                            \
        enum { AT_ONCE = 4 / COUNT };                                                              \
        vec reads[AT_ONCE][COUNT] = {{{0}}}, nexts[AT_ONCE][COUNT] = {{{0}}}, written[COUNT];      \
        for (int j = 0; j < COUNT; j++)                                                            \
            written[j] = load(u + j * WIDTH);                                                      \
        int64_t row = 0;                                                                           \
        for (; row + AT_ONCE <= keys; row += AT_ONCE)                                              \
            for (int i = 0; i < AT_ONCE; i++)                                                      \
                for (int j = 0; j < COUNT; j++) {                                                  \
                    float *here = S + (row + i) * columns + j * WIDTH;                             \
                    vec s = a * load(here) + k[row + i] * written[j];                              \
                    store(here, s);                                                                \
                    reads[i][j] += q[row + i] * s;                                                 \
                    nexts[i][j] += next[row + i] * s;                                              \
                }                                                                                  \
        for (; row < keys; row++)                                                                  \
            for (int j = 0; j < COUNT; j++) {                                                      \
                float *here = S + row * columns + j * WIDTH;                                       \
                vec s = a * load(here) + k[row] * written[j];                                      \
                store(here, s);                                                                    \
                reads[0][j] += q[row] * s;                                                         \
                nexts[0][j] += next[row] * s;                                                      \
            }                                                                                      \
        for (int j = 0; j < COUNT; j++) {                                                          \
            for (int i = 1; i < AT_ONCE; i++)                                                      \
                reads[0][j] += reads[i][j], nexts[0][j] += nexts[i][j];                            \
            store(y + j * WIDTH, reads[0][j]);                                                     \
            store(known + j * WIDTH, nexts[0][j]);                                                 \
        }                                                                                          \
    }
WRITE_AND_READ(1)
WRITE_AND_READ(2)
WRITE_AND_READ(4)

static void write_and_read(float *y, const float *q, float *known, const float *next, float a,
                           const float *k, const float *u, float *S, int64_t keys,
                           int64_t columns) {
    int64_t v = 0;
    for (; v + 4 * WIDTH <= columns; v += 4 * WIDTH)
        write_and_read_4(y + v, q, known + v, next, a, k, u + v, S + v, keys, columns);
    for (; v + 2 * WIDTH <= columns; v += 2 * WIDTH)
        write_and_read_2(y + v, q, known + v, next, a, k, u + v, S + v, keys, columns);
    if (v < columns)
        write_and_read_1(y + v, q, known + v, next, a, k, u + v, S + v, keys, columns);
}

/* One time of the backward pass and what the one before it adds to the gradient of the weights:

   to_key[k]   = G[k] . u - S[k] . e     e: the gradient of the error
   to_query[k] = S[k] . y                y: the gradient of what was read
   G[k]       <- a (G[k] - k[k] e) + q'[k] y'
   to_u'      <- k' G                    of the time before */
typedef struct {
    const float *key, *u, *e, *y;
    const float *query_before, *key_before, *y_before;
    float *to_key, *to_query, *to_u_before;
    float a;
} Between;

INLINE void rows_between(const Between *b, float *restrict G, const float *restrict S,
                         int64_t from, int64_t count, vec *to_u, int64_t columns) {
    vec keys[WIDTH], queries[WIDTH];
    for (int i = 0; i < WIDTH; i++)
        keys[i] = queries[i] = (vec){0};
    for (int64_t i = 0; i < count; i++) {
        vec to_k = {0}, to_q = {0};
        float k = b->key[from + i], q = b->query_before[from + i], next = b->key_before[from + i];
        for (int64_t v = 0; v < columns; v += WIDTH) {
            float *here = G + (from + i) * columns + v;
            vec g = load(here), s = load(S + (from + i) * columns + v), error = load(b->e + v);
            to_k += g * load(b->u + v) - s * error;
            to_q += s * load(b->y + v);
            g = b->a * (g - k * error) + q * load(b->y_before + v);
            store(here, g);
            to_u[v / WIDTH] += next * g;
        }
        keys[i] = to_k;
        queries[i] = to_q;
    }
    store(b->to_key + from, sums(keys));
    store(b->to_query + from, sums(queries));
}

INLINE void all_rows_between(const Between *b, float *G, const float *S, int64_t keys,
                             int64_t columns, int64_t vectors) {
    vec to_u[4] = {{0}};
    int64_t from = 0;
    for (; from + WIDTH <= keys; from += WIDTH)
        rows_between(b, G, S, from, WIDTH, to_u, vectors * WIDTH);
    if (from < keys)
        rows_between(b, G, S, from, keys - from, to_u, columns);
    for (int64_t v = 0; v < vectors; v++)
        store(b->to_u_before + v * WIDTH, to_u[v]);
}

/* Whether weights with so many columns are passed over in this way. */
INLINE int fits_between(int64_t columns) {
    return columns == WIDTH || columns == 2 * WIDTH || columns == 4 * WIDTH;
}

static void between(const Between *b, float *G, const float *S, int64_t keys, int64_t columns) {
    if (columns == 4 * WIDTH)
        all_rows_between(b, G, S, keys, columns, 4);
    else if (columns == 2 * WIDTH)
        all_rows_between(b, G, S, keys, columns, 2);
    else
        all_rows_between(b, G, S, keys, columns, 1);
}

#endif
