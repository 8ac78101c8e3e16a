/* The fast weights S of one head, in cache: rows that are length up to padded vectors. */
#ifndef FWRL_WEIGHTS_H
#define FWRL_WEIGHTS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

INLINE int64_t padded(int64_t size) { return (size + WIDTH - 1) / WIDTH * WIDTH; }

/* y <- w * x, number by number */
INLINE void weigh(float *y, const float *w, const float *x, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++)
        y[i] = w[i] * x[i];
}

/* y <- y + w * x */
INLINE void add_weighed(float *y, const float *w, const float *x, int64_t size) {
#pragma omp simd
    for (int64_t i = 0; i < size; i++)
        y[i] += w[i] * x[i];
}

/* Copy a vector: shorter ones than those that a call is worth. */
INLINE void copy(float *restrict to, const float *restrict from, int64_t size) {
    int64_t i = 0;
    for (; i + WIDTH <= size; i += WIDTH)
        store(to + i, load(from + i));
    for (; i < size; i++)
        to[i] = from[i];
}

/* Copy a vector and pad it with zeros to this length. */
INLINE void pad(float *restrict to, const float *restrict from, int64_t size, int64_t length) {
    copy(to, from, size);
    for (int64_t i = size; i < length; i++)
        to[i] = 0.0f;
}

/* Copy a matrix without gaps to one of padded rows; zeros if there is none. */
static void pad_matrix(float *to, const float *from, int64_t keys, int64_t values,
                        int64_t columns) {
    if (!from)
        memset(to, 0, keys * columns * sizeof(float));
    else
        for (int64_t k = 0; k < keys; k++)
            pad(to + k * columns, from + k * values, values, columns);
}

/* The reverse of `pad_matrix`. */
static void unpad_matrix(float *to, const float *from, int64_t keys, int64_t values,
                        int64_t columns) {
    for (int64_t k = 0; k < keys; k++)
        copy(to + k * values, from + k * columns, values);
}

static void add_matrix(float *to, const float *from, int64_t keys, int64_t values,
                       int64_t columns) {
    for (int64_t k = 0; k < keys; k++)
        for (int64_t v = 0; v < values; v++)
            to[k * values + v] += from[k * columns + v];
}

/* sum <- x S, for COUNT vectors of the columns. Several sums at once hide how long one takes. */
#define READ(COUNT)                                                                                \
    INLINE void read_##COUNT(float *sum, const float *x, const float *S, int64_t keys,             \
                             int64_t columns) {                                                    \
        enum { AT_ONCE = 8 / COUNT };                                                              \
        vec parts[AT_ONCE][COUNT] = {{{0}}};                                                       \
        int64_t k = 0;                                                                             \
        for (; k + AT_ONCE <= keys; k += AT_ONCE)                                                  \
            for (int i = 0; i < AT_ONCE; i++)                                                      \
                for (int j = 0; j < COUNT; j++)                                                    \
                    parts[i][j] += x[k + i] * load(S + (k + i) * columns + j * WIDTH);             \
        for (; k < keys; k++)                                                                      \
            for (int j = 0; j < COUNT; j++)                                                        \
                parts[0][j] += x[k] * load(S + k * columns + j * WIDTH);                           \
        for (int j = 0; j < COUNT; j++) {                                                          \
            vec total = parts[0][j];                                                               \
            for (int i = 1; i < AT_ONCE; i++)                                                      \
                total += parts[i][j];                                                              \
            store(sum + j * WIDTH, total);                                                         \
        }                                                                                          \
    }
READ(1)
READ(2)
READ(4)

static void read_all(float *sum, const float *x, const float *S, int64_t keys, int64_t columns) {
    int64_t v = 0;
    for (; v + 4 * WIDTH <= columns; v += 4 * WIDTH)
        read_4(sum + v, x, S + v, keys, columns);
    for (; v + 2 * WIDTH <= columns; v += 2 * WIDTH)
        read_2(sum + v, x, S + v, keys, columns);
    if (v < columns)
        read_1(sum + v, x, S + v, keys, columns);
}

/* S <- a T + k^T u: `write_all` without the read. */
INLINE void write_only(float a, const float *restrict k, const float *restrict u,
                       const float *restrict T, float *restrict S, int64_t keys, int64_t columns) {
    for (int64_t row = 0; row < keys; row++)
        for (int64_t v = 0; v < columns; v += WIDTH) {
            int64_t here = row * columns + v;
            store(S + here, a * load(T + here) + k[row] * load(u + v));
        }
}

/* S <- a T + k^T u, and y <- q S, for COUNT vectors of the columns; T may be S. */
#define WRITE(COUNT)                                                                               \
    INLINE void write_##COUNT(float *y, const float *q, float a, const float *k, const float *u,   \
                              const float *T, float *S, int64_t keys, int64_t columns) {           \
        enum { AT_ONCE = 4 / COUNT };                                                              \
        vec parts[AT_ONCE][COUNT] = {{{0}}}, written[COUNT];                                       \
        for (int j = 0; j < COUNT; j++)                                                            \
            written[j] = load(u + j * WIDTH);                                                      \
        int64_t row = 0;                                                                           \
        for (; row + AT_ONCE <= keys; row += AT_ONCE)                                              \
            for (int i = 0; i < AT_ONCE; i++)                                                      \
                for (int j = 0; j < COUNT; j++) {                                                  \
                    int64_t here = (row + i) * columns + j * WIDTH;                                \
                    vec s = a * load(T + here) + k[row + i] * written[j];                          \
                    store(S + here, s);                                                            \
                    parts[i][j] += q[row + i] * s;                                                 \
                }                                                                                  \
        for (; row < keys; row++)                                                                  \
            for (int j = 0; j < COUNT; j++) {                                                      \
                int64_t here = row * columns + j * WIDTH;                                          \
                vec s = a * load(T + here) + k[row] * written[j];                                  \
                store(S + here, s);                                                                \
                parts[0][j] += q[row] * s;                                                         \
            }                                                                                      \
        for (int j = 0; j < COUNT; j++) {                                                          \
            vec total = parts[0][j];                                                               \
            for (int i = 1; i < AT_ONCE; i++)                                                      \
                total += parts[i][j];                                                              \
            store(y + j * WIDTH, total);                                                           \
        }                                                                                          \
    }
WRITE(1)
WRITE(2)
WRITE(4)

static void write_all(float *y, const float *q, float a, const float *k, const float *u,
                      const float *T, float *S, int64_t keys, int64_t columns) {
    int64_t v = 0;
    for (; v + 4 * WIDTH <= columns; v += 4 * WIDTH)
        write_4(y + v, q, a, k, u + v, T + v, S + v, keys, columns);
    for (; v + 2 * WIDTH <= columns; v += 2 * WIDTH)
        write_2(y + v, q, a, k, u + v, T + v, S + v, keys, columns);
    if (v < columns)
        write_1(y + v, q, a, k, u + v, T + v, S + v, keys, columns);
}

/* The backward pass of WIDTH rows k of the weights: two sums for each, and the row of G.

   to_key[k]   = G[k] . u - S[k] . e     e: the gradient of the error
   to_query[k] = S[k] . y                y: the gradient of what was read
   G[k]       <- a (G[k] - k[k] e) */
INLINE void rows_back(float *restrict to_key, float *restrict to_query, float *restrict G,
                      const float *restrict S, const float *restrict u, const float *restrict e,
                      const float *restrict y, const float *restrict k, float a, int64_t count,
                      int64_t columns) {
    vec keys[WIDTH], queries[WIDTH];
    for (int i = 0; i < WIDTH; i++)
        keys[i] = queries[i] = (vec){0};
    for (int64_t i = 0; i < count; i++) {
        vec to_k = {0}, to_q = {0};
        for (int64_t v = 0; v < columns; v += WIDTH) {
            vec g = load(G + i * columns + v), s = load(S + i * columns + v), error = load(e + v);
            to_k += g * load(u + v) - s * error;
            to_q += s * load(y + v);
            store(G + i * columns + v, a * (g - k[i] * error));
        }
        keys[i] = to_k;
        queries[i] = to_q;
    }
    store(to_key, sums(keys));
    store(to_query, sums(queries));
}

/* The same for all rows; the compiler unrolls the usual sizes. */
static void all_rows_back(float *to_key, float *to_query, float *G, const float *S, const float *u,
                          const float *e, const float *y, const float *key, float a, int64_t keys,
                          int64_t columns) {
    for (int64_t k = 0; k < keys; k += WIDTH) {
        int64_t count = keys - k < WIDTH ? keys - k : WIDTH, from = k * columns;
#define ROWS_BACK(COUNT, COLUMNS)                                                                  \
    rows_back(to_key + k, to_query + k, G + from, S + from, u, e, y, key + k, a, COUNT, COLUMNS)
        if (count < WIDTH || columns > 4 * WIDTH)
            ROWS_BACK(count, columns);
        else if (columns == 4 * WIDTH)
            ROWS_BACK(WIDTH, 4 * WIDTH);
        else if (columns == 2 * WIDTH)
            ROWS_BACK(WIDTH, 2 * WIDTH);
        else
            ROWS_BACK(WIDTH, columns);
#undef ROWS_BACK
    }
}

#endif
