/* Recurrent nets of many streams with one matrix of recurrent weights. It is too large for the
   nearest cache: a thread takes all its streams through a time together, and reads it once for
   many. */
#ifndef FWRL_GROUPS_H
#define FWRL_GROUPS_H

#include "heads.h"
#include "products.h"

/* A call; its output size; recurrent weights [columns E]. Then what `run_groups` adds: the weights
   in panels, and how many streams are one thread's. */
typedef struct {
    const void *call;
    const Loop *loop;
    int64_t size, columns;
    const float *recurrent;
    float *weights;
    int64_t group;
} Work;

/* The streams of one thread, and its scratch: of each stream a row for products with the recurrent
   weights (or the gradient of the output), and as many numbers as there are units, which last from
   time to time in `kept`: cells, or a part of their gradient. */
typedef struct {
    const Work *work;
    int64_t first, count, row;
    float *zeros, *products, *kept;
    /* for each stream: what is multiplied, and where the product goes */
    const float **x;
    float **to;
} Group;

/* Floats of pointers for so many streams, and of the rest of the scratch. */
INLINE int64_t floats_of_pointers(int64_t count) {
    return (int64_t)((2 * count * sizeof(float *) + 63) / 64 * 64 / sizeof(float));
}

/* Of one stream, what a product fills: the columns, or the gradient of the output. */
INLINE int64_t product_size(const Work *work) { return panels_of(work->columns) * PANEL; }

INLINE int64_t floats_of(const Work *work) {
    return floats_of_pointers(work->group) + work->size +
           work->group * (product_size(work) + work->size);
}

static Group group_of(const Work *work, int64_t n, float *scratch) {
    int64_t first = n * work->group, rest = work->loop->streams - first;
    Group g = {work, first, rest < work->group ? rest : work->group, product_size(work)};
    g.x = (const float **)scratch;
    g.to = (float **)scratch + work->group;
    g.zeros = scratch + floats_of_pointers(work->group);
    g.kept = g.zeros + work->size;
    g.products = g.kept + work->group * work->size;
    memset(g.zeros, 0, work->size * sizeof(float));
    for (int64_t i = 0; i < g.count; i++)
        g.to[i] = g.products + i * g.row;
    return g;
}

/* Where [B T .] has this time of a stream of the group. */
INLINE int64_t row_in(const Group *g, int64_t i, int64_t t) {
    return (g->first + i) * g->work->loop->times + t;
}

INLINE int group_starts(const Group *g, int64_t i, int64_t t) {
    return g->work->loop->starts && g->work->loop->starts[row_in(g, i, t)];
}

/* The value before a time: `first` [B E] before all of `later` [B T E], zeros where it starts. */
INLINE const float *before(const Group *g, int64_t i, int64_t t, const float *first,
                           const float *later) {
    int64_t size = g->work->size;
    if (group_starts(g, i, t))
        return g->zeros;
    return t ? later + row_in(g, i, t - 1) * size : first + (g->first + i) * size;
}

/* All times of a group. `first` [B E] is the output before all others, `later` [B T E] those that
   `cell` makes of the products with the last one; where an episode starts, `kept` is zero. */
INLINE void forward_through(Group *g, const float *first, const float *later,
                            void (*cell)(const Group *, int64_t i, int64_t t, float *kept)) {
    int64_t size = g->work->size;
    for (int64_t t = 0; t < g->work->loop->times; t++) {
        for (int64_t i = 0; i < g->count; i++) {
            g->x[i] = before(g, i, t, first, later);
            if (group_starts(g, i, t))
                memset(g->kept + i * size, 0, size * sizeof(float));
        }
        products(g->to, g->x, g->count, g->work->weights, size, g->work->columns);
        for (int64_t i = 0; i < g->count; i++)
            cell(g, i, t, g->kept + i * size);
    }
}

/* The same backward: `cell` makes the gradient `to_products` [B T columns]; that of the output
   before, but for the part in `kept`, is left in `to`. */
INLINE void back_through(Group *g, const float *to_products,
                         void (*cell)(const Group *, int64_t i, int64_t t, float *kept)) {
    int64_t size = g->work->size, columns = g->work->columns;
    memset(g->products, 0, g->count * g->row * sizeof(float));
    for (int64_t t = g->work->loop->times - 1; t >= 0; t--) {
        for (int64_t i = 0; i < g->count; i++) {
            cell(g, i, t, g->kept + i * size);
            g->x[i] = to_products + row_in(g, i, t) * columns;
        }
        products(g->to, g->x, g->count, g->work->weights, columns, size);
        for (int64_t i = 0; i < g->count; i++)
            if (group_starts(g, i, t)) {
                memset(g->to[i], 0, size * sizeof(float));
                memset(g->kept + i * size, 0, size * sizeof(float));
            }
    }
}

/* All groups through all times. Backward, the recurrent weights are read along their rows. */
static int run_groups(const void *call, const Loop *loop, int64_t size, int64_t columns,
                      const float *recurrent, int back,
                      void (*through)(const void *work, Place at, float *scratch)) {
    if (!loop->streams)
        return 0;
    Loop groups = *loop;
    Work work = {call, loop, size, columns, recurrent};
    int64_t from = back ? columns : size, to = back ? size : columns;
    int64_t bytes = (packed_size(from, to) * sizeof(float) + 63) / 64 * 64;
    if (loop->threads > loop->streams)
        groups.threads = loop->streams;
    work.group = (loop->streams + groups.threads - 1) / groups.threads;
    work.weights = aligned_alloc(64, bytes);
    if (!work.weights)
        return 1;
    pack(work.weights, recurrent, from, to, back ? size : 1, back ? 1 : size);
    groups.streams = (loop->streams + work.group - 1) / work.group;
    int failed = for_all(&groups, &work, floats_of(&work), through);
    free(work.weights);
    return failed;
}

#endif
