/* The fast weights S of one head, in cache: rows that are filled up to whole vectors. */
#ifndef FWRL_WEIGHTS_H
#define FWRL_WEIGHTS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

INLINE int64_t whole(int64_t size) { return (size + WIDTH - 1) / WIDTH * WIDTH; }

/* Fill a vector up with zeros. */
INLINE void take(float *to, const float *from, int64_t size, int64_t filled) {
    memcpy(to, from, size * sizeof(float));
    memset(to + size, 0, (filled - size) * sizeof(float));
}

/* Zeros from nowhere. */
static void take_matrix(float *to, const float *from, int64_t keys, int64_t values,
                        int64_t columns) {
    if (!from)
        memset(to, 0, keys * columns * sizeof(float));
    else
        for (int64_t k = 0; k < keys; k++)
            take(to + k * columns, from + k * values, values, columns);
}

static void give_matrix(float *to, const float *from, int64_t keys, int64_t values,
                        int64_t columns) {
    for (int64_t k = 0; k < keys; k++)
        memcpy(to + k * values, from + k * columns, values * sizeof(float));
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

/* S <- a T + k^T u: `write_all` for who does not read. */
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

/* What row k of the weights gets back, for WIDTH rows: two sums for each, and the row itself.

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

/* One time of the delta rule, with the sizes of its weights, and on its way back with the gradient
   of these. The vectors hold whole ones, filled up with zeros. */
typedef struct {
    int64_t keys, values, columns;
    /* whether the error is written, not the value */
    int removes;
    float a, b;
    const float *key, *query;
    /* what was written before beta, and the gradient of what was read */
    float *error, *y;
    /* the gradient of the weights: after the time, then before it */
    float *G;
    /* what was written, and its gradient; the gradient of the error; those of key and query, with
       room for whole vectors */
    float *u, *to_u, *e, *to_key, *to_query;
} Written;

/* G <- G + q^T y; the gradients of what was written and of the error. Returns that of beta. */
static float written_back(const Written *w) {
    float to_beta = 0.0f;
    write_all(w->to_u, w->key, 1.0f, w->query, w->y, w->G, w->G, w->keys, w->columns);
    for (int64_t v = 0; v < w->values; v++) {
        to_beta += w->to_u[v] * w->error[v];
        w->u[v] = w->b * w->error[v];
        w->e[v] = w->removes ? w->b * w->to_u[v] : 0.0f;
    }
    return to_beta;
}

/* Then the gradients of key and query, and G of the weights before; S: those after. */
static void address_back(const Written *w, const float *S) {
    all_rows_back(w->to_key, w->to_query, w->G, S, w->u, w->e, w->y, w->key, w->a, w->keys,
                  w->columns);
    float along = 0.0f;
    for (int64_t v = 0; v < w->values; v++)
        along += w->u[v] * w->e[v];
    for (int64_t k = 0; k < w->keys; k++)
        w->to_key[k] += along * w->key[k];
}

/* Where a head's vector or number of the first time lies, and how many floats later the next. */
typedef struct {
    const float *data;
    int64_t stride;
} Times;

/* What one head wrote at each time. No strength means 1 everywhere; no starts, none. */
typedef struct {
    Times key, error, beta, decay;
    const uint8_t *starts;
} Writes;

INLINE float strength(Times strengths, int64_t t) {
    return strengths.data ? strengths.data[t * strengths.stride] : 1.0f;
}

/* The weights after each time from `first` on, once more: T, those before, is replaced by `fresh`
   where an episode starts. Those of two times lie `matrix` floats apart. */
static void again(const Writes *writes, int64_t first, int64_t last, const float *T,
                  const float *fresh, float *after, int64_t matrix, const Written *w) {
    for (int64_t t = first; t < last; t++, after += matrix) {
        const float *error = writes->error.data + t * writes->error.stride;
        float b = strength(writes->beta, t);
        for (int64_t v = 0; v < w->values; v++)
            w->u[v] = b * error[v];
        if (writes->starts && writes->starts[t])
            T = fresh;
        write_only(strength(writes->decay, t), writes->key.data + t * writes->key.stride, w->u, T,
                   after, w->keys, w->columns);
        T = after;
    }
}

/* Do the work of every head of every stream, with scratch of so many floats for each thread.
   Returns 0, or 1 if there is no memory for the scratch. */
static int for_all(const void *call, int64_t streams, int64_t heads, int64_t threads, int64_t floats,
                   void (*work)(const void *call, int64_t b, int64_t h, float *scratch)) {
    int64_t size = (floats * sizeof(float) + 63) / 64 * 64, failed = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *scratch = aligned_alloc(64, size);
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < streams * heads; i++)
            if (scratch)
                work(call, i / heads, i % heads, scratch);
        free(scratch);
    }
    return (int)failed;
}

#endif
