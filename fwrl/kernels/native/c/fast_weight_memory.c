/* The fast weight memory, one time after another, with the weights in cache; vec() makes
   one vector of the outer product of two:

       k = vec(s r)
       U = S + k^T b (v - k S)
       S <- U / max(1, |U|)
       n <- normalise(vec(n e) S)     once for each edge e

   The output is the last n; an episode begins with zeros for S. In memory are the weights
   U; the next reads and the next write divide by max(1, |U|). */

#include <math.h>

#include "heads.h"

/* Added to the variance of what is normalised. */
static const float EPSILON = 1e-5f;

enum { FIRST_PART, SECOND_PART, VALUE, PARTS };

/* One stream. */
typedef struct {
    const FastWeightMemory *net;
    Place at;
    int64_t size, keys, reads;
    /* keys and values padded; floats of the weights there and in scratch */
    int64_t rows, columns, matrix, padded;
} Stream;

static Stream stream_of(const FastWeightMemory *net, Place at) {
    int64_t size = net->size, keys = size * size, columns = padded(size);
    return (Stream){net,  at,           size,    keys,        net->path_length - 1,
                    padded(keys), columns, keys * size, keys * columns};
}

INLINE const float *part_at(const Stream *s, int64_t t, int part) {
    return s->net->triple + (row_of(s->at, t) * PARTS + part) * s->size;
}

/* The first node (0), or an edge of the chain. */
INLINE const float *path_at(const Stream *s, int64_t t, int64_t i) {
    return s->net->path + (row_of(s->at, t) * s->net->path_length + i) * s->size;
}

INLINE float *found_at(const Stream *s, int64_t t, int64_t i) {
    return s->net->found + (row_of(s->at, t) * s->reads + i) * s->size;
}

/* key <- vec(first second). */
INLINE void bind(float *key, const float *first, const float *second, int64_t size) {
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j < size; j++)
            key[i * size + j] = first[i] * second[j];
}

/* S <- S + vec(first second)^T u */
static void write_bound(float *S, const float *first, const float *second, const float *u,
                        int64_t size, int64_t columns) {
    for (int64_t v = 0; v < columns; v += WIDTH) {
        float *to = S + v;
        for (int64_t i = 0; i < size; i++) {
            vec part = first[i] * load(u + v);
            for (int64_t j = 0; j < size; j++, to += columns)
                store(to, load(to) + second[j] * part);
        }
    }
}

/* parts[i] <- x S[i], for each of the matrices that stand under one another in S. */
static void read_each(float *parts, const float *x, const float *S, int64_t size, int64_t columns) {
    int64_t matrix = size * columns, i = 0;
    for (; i + 4 <= size; i += 4)
        for (int64_t v = 0; v < columns; v += WIDTH) {
            const float *from = S + i * matrix + v;
            vec sums[4] = {{0}};
            for (int64_t k = 0; k < size; k++, from += columns)
                for (int j = 0; j < 4; j++)
                    sums[j] += x[k] * load(from + j * matrix);
            for (int j = 0; j < 4; j++)
                store(parts + (i + j) * columns + v, sums[j]);
        }
    for (; i < size; i++)
        read_all(parts + i * columns, x, S + i * matrix, size, columns);
}

/* sum <- vec(first second) S, by one part of the key after the other: that needs fewer numbers at
   once than the key as a whole. parts: scratch, a row of values for each number of a part. */
INLINE void read_bound(float *sum, float *parts, const float *first, const float *second,
                       const float *S, int64_t size, int64_t columns) {
    read_each(parts, second, S, size, columns);
    read_all(sum, first, parts, size, columns);
}

/* to[i] <- to[i] + a (x . row i of S) */
INLINE void add_inner(float *to, float a, const float *S, const float *x, int64_t size,
                      int64_t columns) {
    for (int64_t i = 0; i < size; i += WIDTH) {
        int64_t count = size - i < WIDTH ? size - i : WIDTH;
        vec rows[WIDTH] = {{0}};
        for (int64_t j = 0; j < count; j++)
            for (int64_t v = 0; v < columns; v += WIDTH)
                rows[j] += load(S + (i + j) * columns + v) * load(x + v);
        vec found = sums(rows);
        for (int64_t j = 0; j < count; j++)
            to[i + j] += a * found[j];
    }
}

/* Adds to the gradients of both parts of a key: a times that of what it read, or wrote, in S. */
static void bound_back(float *to_first, float *to_second, float a, const float *to_sum,
                       float *parts, const float *first, const float *second, const float *S,
                       int64_t size, int64_t columns) {
    read_all(parts, first, S, size, size * columns);
    add_inner(to_second, a, parts, to_sum, size, columns);
    read_each(parts, second, S, size, columns);
    add_inner(to_first, a, parts, to_sum, size, columns);
}

/* y <- x with mean 0 and variance 1. Returns what differences from the mean are multiplied by. */
INLINE float normalise(float *y, const float *x, int64_t size) {
    float mean = 0.0f, variance = 0.0f;
    for (int64_t v = 0; v < size; v++)
        mean += x[v];
    mean /= (float)size;
    for (int64_t v = 0; v < size; v++) {
        y[v] = x[v] - mean;
        variance += y[v] * y[v];
    }
    float scale = 1.0f / sqrtf(variance / (float)size + EPSILON);
    for (int64_t v = 0; v < size; v++)
        y[v] *= scale;
    return scale;
}

/* The gradient of x, from y = normalise(x) and its gradient. */
INLINE void normalise_back(float *to_x, const float *y, const float *to_y, float scale,
                           int64_t size) {
    float mean = 0.0f, along = 0.0f;
    for (int64_t v = 0; v < size; v++) {
        mean += to_y[v];
        along += to_y[v] * y[v];
    }
    mean /= (float)size, along /= (float)size;
    for (int64_t v = 0; v < size; v++)
        to_x[v] = scale * (to_y[v] - mean - y[v] * along);
}

/* The sum of the products of two matrices, number by number. */
static float inner(const float *A, const float *B, int64_t filled) {
    vec parts[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * WIDTH <= filled; i += 4 * WIDTH)
        for (int j = 0; j < 4; j++)
            parts[j] += load(A + i + j * WIDTH) * load(B + i + j * WIDTH);
    for (; i < filled; i += WIDTH)
        parts[0] += load(A + i) * load(B + i);
    return sum(parts[0] + parts[1] + (parts[2] + parts[3]));
}

/* S <- a S - b U */
INLINE void combine(float *S, float a, float b, const float *U, int64_t filled) {
    for (int64_t i = 0; i < filled; i += WIDTH)
        store(S + i, a * load(S + i) - b * load(U + i));
}

/* One time, with weights S that are still to be scaled by `scale`. Scratch: two keys, and rows of
   values: three, and one for each number of a part. Returns what the new weights are to be scaled
   by. */
static float advance(const Stream *s, int64_t t, float scale, float *S, float *key, float *row) {
    const FastWeightMemory *net = s->net;
    int64_t size = s->size, keys = s->keys, columns = s->columns;
    float *u = row, *y = u + columns, *node = y + columns, *parts = node + columns;
    float *query = key + s->rows;
    const float *first = part_at(s, t, FIRST_PART), *second = part_at(s, t, SECOND_PART);
    const float *value = part_at(s, t, VALUE);
    bind(key, first, second, size);
    bind(query, path_at(s, t, 0), path_at(s, t, 1), size);
    read_bound(u, parts, first, second, S, size, columns);
    for (int64_t v = 0; v < size; v++)
        u[v] = value[v] - scale * u[v];
    if (net->error)
        memcpy(net->error + row_of(s->at, t) * size, u, size * sizeof(float));
    for (int64_t v = 0; v < size; v++)
        u[v] *= net->beta[row_of(s->at, t)];
    write_all(y, query, scale, key, u, S, S, keys, columns);
    float square = inner(S, S, s->padded);
    scale = square > 1.0f ? 1.0f / sqrtf(square) : 1.0f;
    for (int64_t i = 0; i < s->reads; i++) {
        if (i)
            read_bound(y, parts, node, path_at(s, t, 1 + i), S, size, columns);
        for (int64_t v = 0; v < size; v++)
            y[v] *= scale;
        if (net->found)
            memcpy(found_at(s, t, i), y, size * sizeof(float));
        normalise(node, y, size);
    }
    memcpy(net->output + row_of(s->at, t) * size, node, size * sizeof(float));
    if (net->scale)
        net->scale[row_of(s->at, t)] = scale;
    return scale;
}

/* One stream. Scratch: a matrix, two rows of keys, three and a key part of values. */
static void forward(const void *call, Place at, float *scratch) {
    const FastWeightMemory *net = call;
    Stream here = stream_of(net, at), *s = &here;
    float *S = scratch, *key = S + s->padded, *row = key + 2 * s->rows, scale = 1.0f;
    memset(row, 0, 3 * s->columns * sizeof(float));
    pad_matrix(S, net->state + at.b * s->matrix, s->keys, s->size, s->columns);
    for (int64_t t = 0; t < net->loop.times; t++) {
        if (is_checkpoint(at, net->checkpoints, t))
            unpad_matrix(checkpoint_of(at, net->checkpoints, t, s->matrix), S, s->keys, s->size, s->columns);
        /* scaling zeros changes nothing */
        if (starts_at(s->at, t))
            memset(S, 0, s->padded * sizeof(float));
        scale = advance(s, t, scale, S, key, row);
    }
    combine(S, scale, 0.0f, S, s->padded);
    unpad_matrix(net->end + at.b * s->matrix, S, s->keys, s->size, s->columns);
}

/* The scratch of the backward pass of one stream. */
typedef struct {
    Write now;
    /* zeros; the weights before the interval; after each time */
    float *fresh, *before, *after;
    /* at each time of the interval: the key, and what the weights before it are scaled by */
    float *key, *decay;
    /* of values: the gradient of a node, that of what was read, a node, and a row for each number
       of a part */
    float *to_node, *to_found, *node, *parts;
} Scratch;

static Scratch scratch_of(float *scratch, const Stream *s) {
    int64_t interval = s->net->loop.interval;
    Scratch x = {{s->keys, s->size, s->columns, 1, 1.0f}};
    float **rows[] = {&x.now.error, &x.now.u,   &x.now.y,    &x.now.to_u,
                      &x.now.e,     &x.to_node, &x.to_found, &x.node};
    float **matrices[] = {&x.now.G, &x.fresh, &x.before};
    x.after = lay_out(matrices, 3, scratch, s->padded);
    x.key = x.after + interval * s->padded;
    x.decay = x.key + interval * s->rows;
    x.parts = lay_out(rows, 8, x.decay + padded(interval), s->columns);
    return x;
}

/* The weights after each time of an interval, recomputed. */
static void recompute_weights(const Stream *s, int64_t first, int64_t last, Scratch *x) {
    const FastWeightMemory *net = s->net;
    int64_t row = row_of(s->at, first);
    for (int64_t t = first; t < last; t++) {
        bind(x->key + (t - first) * s->rows, part_at(s, t, FIRST_PART), part_at(s, t, SECOND_PART),
             s->size);
        x->decay[t - first] = t ? net->scale[row_of(s->at, t) - 1] : 1.0f;
    }
    Writes writes = {{x->key, s->rows},
                     {net->error + row * s->size, s->size},
                     {net->beta + row, 1},
                     {x->decay, 1},
                     net->loop.starts ? net->loop.starts + row : NULL};
    pad_matrix(x->before, checkpoint_of(s->at, net->checkpoints, first, s->matrix), s->keys, s->size, s->columns);
    recompute(&writes, 0, last - first, x->before, x->fresh, x->after, s->padded, &x->now);
}

/* The chain of reads backward: to the gradients of its path, added to that of the weights, which
   are U, scaled. */
static void reads_back(const Stream *s, int64_t t, const float *U, float scale, Scratch *x) {
    const FastWeightMemory *net = s->net;
    int64_t size = s->size, reads = s->reads;
    float *to_path = net->to_path + row_of(s->at, t) * net->path_length * size;
    memset(to_path, 0, (1 + reads) * size * sizeof(float));
    memcpy(x->to_node, net->from_output + row_of(s->at, t) * size, size * sizeof(float));
    for (int64_t i = reads - 1; i >= 0; i--) {
        float factor = normalise(x->node, found_at(s, t, i), size);
        normalise_back(x->to_found, x->node, x->to_node, factor, size);
        const float *node = path_at(s, t, 0), *edge = path_at(s, t, 1 + i);
        if (i) {
            normalise(x->node, found_at(s, t, i - 1), size);
            node = x->node;
        }
        memset(x->to_node, 0, size * sizeof(float));
        bound_back(x->to_node, to_path + (1 + i) * size, scale, x->to_found, x->parts, node, edge,
                   U, size, s->columns);
        write_bound(x->now.G, node, edge, x->to_found, size, s->columns);
    }
    memcpy(to_path, x->to_node, size * sizeof(float));
}

/* The gradients of the parts of the key, and that of the weights before the write; U: those after
   it, which hold the write itself. */
static void key_back(const Stream *s, int64_t t, const float *U, Scratch *x) {
    Write *w = &x->now;
    int64_t size = s->size, columns = s->columns;
    const float *first = part_at(s, t, FIRST_PART), *second = part_at(s, t, SECOND_PART);
    float *to_first = s->net->to_triple + (row_of(s->at, t) * PARTS + FIRST_PART) * size;
    float *to_second = to_first + (SECOND_PART - FIRST_PART) * size;
    float along = 0.0f, length_first = 0.0f, length_second = 0.0f;
    for (int64_t v = 0; v < size; v++) {
        along += w->u[v] * w->e[v];
        length_first += first[v] * first[v];
        length_second += second[v] * second[v];
    }
    for (int64_t i = 0; i < size; i++) {
        to_first[i] = along * length_second * first[i];
        to_second[i] = along * length_first * second[i];
    }
    bound_back(to_first, to_second, 1.0f, w->u, x->parts, first, second, w->G, size, columns);
    bound_back(to_first, to_second, -1.0f, w->e, x->parts, first, second, U, size, columns);
    for (int64_t v = 0; v < size; v++)
        w->u[v] = -w->e[v];
    write_bound(w->G, first, second, w->u, size, columns);
}

/* One time backward: from the gradient of the weights after it to that of those before; U: those
   after it, before they are scaled. */
static void back(const Stream *s, int64_t t, const float *key, const float *U, Scratch *x) {
    const FastWeightMemory *net = s->net;
    int64_t size = s->size, row = row_of(s->at, t);
    Write *w = &x->now;
    float scale = net->scale[row];
    reads_back(s, t, U, scale, x);
    if (scale < 1.0f)
        combine(w->G, scale, scale * scale * scale * inner(w->G, U, s->padded), U, s->padded);
    /* y is zero: nothing is read any more */
    w->key = w->query = key, w->b = net->beta[row];
    memcpy(w->error, net->error + row * size, size * sizeof(float));
    net->to_beta[row] = write_back(w);
    key_back(s, t, U, x);
    /* e: the gradient of the error is that of the value */
    memcpy(net->to_triple + (row * PARTS + VALUE) * size, w->e, size * sizeof(float));
    if (starts_at(s->at, t))
        memset(w->G, 0, s->padded * sizeof(float));
}

/* One stream, from the last interval to the first. */
static void backward(const void *call, Place at, float *scratch) {
    const FastWeightMemory *net = call;
    Stream here = stream_of(net, at), *s = &here;
    Scratch x = scratch_of(scratch, s);
    pad_matrix(x.now.G, net->from_end + at.b * s->matrix, s->keys, s->size, s->columns);
    for (int64_t first, last = net->loop.times; last > 0; last = first) {
        first = interval_before(at, last);
        recompute_weights(s, first, last, &x);
        for (int64_t t = last - 1; t >= first; t--)
            back(s, t, x.key + (t - first) * s->rows, x.after + (t - first) * s->padded, &x);
    }
    unpad_matrix(net->to_state + at.b * s->matrix, x.now.G, s->keys, s->size, s->columns);
}

static int run(const FastWeightMemory *net, int64_t matrices, int64_t keys, int64_t values,
               void (*work)(const void *, Place, float *)) {
    Stream s = stream_of(net, (Place){0});
    int64_t floats = matrices * s.padded + keys * s.rows + (values + s.size) * s.columns;
    return for_all(&net->loop, net, floats + padded(net->loop.interval), work);
}

int NAME(fast_weight_memory_forward)(const FastWeightMemory *net) {
    return run(net, 1, 2, 3, forward);
}

int NAME(fast_weight_memory_backward)(const FastWeightMemory *net) {
    return run(net, 3 + net->loop.interval, net->loop.interval, 8, backward);
}
