/* Loops over time that keep one matrix of fast weights for each head of each stream: where a head's
   numbers lie, how its states are recomputed between two checkpoints, and the delta rule backward.

   A thread takes one head of one stream through all times after another. */
#ifndef FWRL_HEADS_H
#define FWRL_HEADS_H

#include "calls.h"
#include "weights.h"

/* One head of one stream. Where a head has several matrices, each counts as a head. */
typedef struct {
    const Loop *loop;
    int64_t b, h, heads;
} Place;

/* Its index in [B H .], and in [B T H .] at a time. */
INLINE int64_t index_of(Place at) { return at.b * at.heads + at.h; }

INLINE int64_t row_of(Place at, int64_t t) {
    return (at.b * at.loop->times + t) * at.heads + at.h;
}

/* The matrix that an episode begins with, in [1 H matrix] or [B H matrix]; NULL: zeros. */
INLINE const float *fresh_matrix(const float *fresh, int64_t streams, Place at, int64_t matrix) {
    int64_t b = streams == 1 ? 0 : at.b;
    return streams ? fresh + (b * at.heads + at.h) * matrix : NULL;
}

INLINE float *vector_in(Sequence x, Place at, int64_t t) {
    return x.data + at.b * x.stream + t * x.time + at.h * x.head;
}

/* Floats of a cache line, and times between the prefetch of a row and its use. */
enum { LINE = 16, AHEAD = 4 };

/* Rows of one head lie too far apart for the processor to foresee. */
INLINE void prefetch(const float *row, int64_t size) {
    for (int64_t i = 0; i < size; i += LINE)
        __builtin_prefetch(row + i);
}

INLINE const uint8_t *starts_of(Place at) {
    return at.loop->starts ? at.loop->starts + at.b * at.loop->times : NULL;
}

INLINE int starts_at(Place at, int64_t t) {
    return at.loop->starts && at.loop->starts[at.b * at.loop->times + t];
}

/* Whether a state is to be saved before this time; where [B H N matrix] has it. */
INLINE int is_checkpoint(Place at, const float *checkpoints, int64_t t) {
    return checkpoints && t % at.loop->interval == 0;
}

INLINE float *checkpoint_of(Place at, float *checkpoints, int64_t t, int64_t matrix) {
    int64_t count = (at.loop->times + at.loop->interval - 1) / at.loop->interval;
    return checkpoints + (index_of(at) * count + t / at.loop->interval) * matrix;
}

/* The first time after the last checkpoint before `last`. */
INLINE int64_t interval_before(Place at, int64_t last) {
    return (last - 1) / at.loop->interval * at.loop->interval;
}

/* Let these pointers lie `size` floats apart, and clear that; returns where it ends. */
INLINE float *lay_out(float **const *pointers, int count, float *scratch, int64_t size) {
    memset(scratch, 0, count * size * sizeof(float));
    for (int i = 0; i < count; i++)
        *pointers[i] = scratch + i * size;
    return scratch + count * size;
}

/* Do the work of every head of every stream, with scratch of so many floats for each thread.
   Returns 0, or 1 if there is no memory for the scratch. */
static int for_all(const Loop *loop, const void *call, int64_t floats,
                   void (*work)(const void *call, Place at, float *scratch)) {
    int64_t size = (floats * sizeof(float) + 63) / 64 * 64, failed = 0, heads = loop->heads;
#pragma omp parallel num_threads(loop->threads) if (loop->threads > 1)
    {
        float *scratch = aligned_alloc(64, size);
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < loop->streams * heads; i++)
            if (scratch)
                work(call, (Place){loop, i / heads, i % heads, heads}, scratch);
        free(scratch);
    }
    return (int)failed;
}

/* Where a head's vector or number of the first time lies, and how many floats later the next. */
typedef struct {
    const float *data;
    int64_t stride;
} Times;

/* What one head wrote at each time. No beta or decay: 1 everywhere; no starts: none. */
typedef struct {
    Times key, error, beta, decay;
    const uint8_t *starts;
} Writes;

INLINE float strength(Times strengths, int64_t t) {
    return strengths.data ? strengths.data[t * strengths.stride] : 1.0f;
}

/* One time of the delta rule, S <- a S + k^T u with u = b error and y <- q S, backward. All vectors
   are padded. */
typedef struct {
    int64_t keys, values, columns;
    /* whether the error is written, not the value */
    int removes;
    /* decay and beta */
    float a, b;
    const float *key, *query;
    /* what was written before beta, and the gradient of what was read */
    float *error, *y;
    /* the gradient of the weights: after the time, then before it */
    float *G;
    /* what was written, and its gradient; the gradient of the error; those of key and query */
    float *u, *to_u, *e, *to_key, *to_query;
} Write;

/* The weights after each time from `first` on, recomputed from T, those before, which `fresh`
   replaces where an episode starts. Those of two times lie `matrix` floats apart in `after`. */
static void recompute(const Writes *writes, int64_t first, int64_t last, const float *T,
                      const float *fresh, float *after, int64_t matrix, const Write *w) {
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

/* G <- G + q^T y; the gradients of what was written and of the error. Returns that of beta. */
static float write_back(const Write *w) {
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
static void address_back(const Write *w, const float *S) {
    all_rows_back(w->to_key, w->to_query, w->G, S, w->u, w->e, w->y, w->key, w->a, w->keys,
                  w->columns);
    float along = 0.0f;
    for (int64_t v = 0; v < w->values; v++)
        along += w->u[v] * w->e[v];
    for (int64_t k = 0; k < w->keys; k++)
        w->to_key[k] += along * w->key[k];
}

/* <G, S> - (k S) . e, the gradient of the decay; S: the weights before it. */
static float decay_back(const Write *w, const float *S) {
    vec total = {0};
    for (int64_t row = 0; row < w->keys; row++)
        for (int64_t v = 0; v < w->columns; v += WIDTH)
            total += load(S + row * w->columns + v) *
                     (load(w->G + row * w->columns + v) - w->key[row] * load(w->e + v));
    return sum(total);
}

#endif
