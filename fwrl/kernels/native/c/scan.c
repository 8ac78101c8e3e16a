/* The delta family of update rules, one time after another, with the fast weights in cache:

       S <- a S            a: decay
       u  = b (v - k S)    without "k S" if the rule does not remove what it overwrites; b: beta
       S <- S + k^T u
       y  = q S

   This file is compiled once for each set of instructions (VARIANT), and dispatch.c chooses among
   them. */

#include "act.h"

/* The inputs of a time, if there is one, and what is written or read beside them. */
INLINE void prefetch_inputs(const Scan *scan, const float *beside, Place at, int64_t t) {
    if (t < 0 || t >= scan->loop.times)
        return;
    prefetch(vector_in(scan->query, at, t), scan->keys);
    prefetch(vector_in(scan->key, at, t), scan->keys);
    prefetch(vector_in(scan->value, at, t), scan->values);
    prefetch(beside + row_of(at, t) * scan->values, scan->values);
    if (scan->error)
        prefetch(scan->error + row_of(at, t) * scan->values, scan->values);
}

/* The gradients of the inputs of a time, which are about to be written. */
INLINE void prefetch_gradients(const Scan *scan, Place at, int64_t t) {
    if (t < 0)
        return;
    prefetch(scan->to_query + row_of(at, t) * scan->keys, scan->keys);
    prefetch(scan->to_key + row_of(at, t) * scan->keys, scan->keys);
    prefetch(scan->to_value + row_of(at, t) * scan->values, scan->values);
}

INLINE Times strengths(const float *first, Place at) {
    return (Times){first ? first + row_of(at, 0) : NULL, at.heads};
}

INLINE Times times_of(Sequence x, Place at) { return (Times){vector_in(x, at, 0), x.time}; }

/* What the head writes; the error is that of the forward pass. */
static Writes writes_of(const Scan *scan, Place at) {
    Times error = {scan->error + row_of(at, 0) * scan->values, at.heads * scan->values};
    return (Writes){times_of(scan->key, at), scan->error ? error : times_of(scan->value, at),
                    strengths(scan->beta, at), strengths(scan->decay, at), starts_of(at)};
}

/* The only time of a scan that starts nothing. Scratch: three rows and a matrix. */
static void only_step(const Scan *scan, Place at, float *scratch) {
    int64_t index = index_of(at), matrix = scan->keys * scan->values;
    Step x = {scan->keys, scan->values, scan->removes};
    x.a = strength(strengths(scan->decay, at), 0), x.b = strength(strengths(scan->beta, at), 0);
    x.query = vector_in(scan->query, at, 0), x.key = vector_in(scan->key, at, 0);
    x.value = vector_in(scan->value, at, 0), x.state = scan->state + index * matrix;
    x.output = scan->output + index * scan->values, x.end = scan->end + index * matrix;
    step(&x, scratch, scratch + 3 * padded(scan->values));
}

/* What is written before beta, into `error`. */
INLINE void error_at(const Scan *scan, Place at, int64_t t, const float *S, float a, float *error) {
    const float *value = vector_in(scan->value, at, t);
    if (scan->removes) {
        read_all(error, vector_in(scan->key, at, t), S, scan->keys, padded(scan->values));
        for (int64_t v = 0; v < scan->values; v++)
            error[v] = value[v] - a * error[v];
    } else {
        memcpy(error, value, scan->values * sizeof(float));
    }
}

/* One head of one stream. Scratch: three rows and a matrix. */
static void forward(const void *call, Place at, float *scratch) {
    const Scan *scan = call;
    int64_t keys = scan->keys, values = scan->values, columns = padded(values);
    int64_t matrix = keys * values, index = index_of(at);
    float *error = scratch, *u = error + columns, *y = u + columns, *S = y + columns;
    if (!scan->loop.starts && scan->loop.times == 1) {
        only_step(scan, at, scratch);
        return;
    }
    Writes writes = writes_of(scan, at);
    memset(error, 0, 3 * columns * sizeof(float));
    pad_matrix(S, scan->state + index * matrix, keys, values, columns);
    for (int64_t t = 0; t < scan->loop.times; t++) {
        prefetch_inputs(scan, scan->output, at, t + AHEAD);
        if (is_checkpoint(at, scan->checkpoints, t))
            unpad_matrix(checkpoint_of(at, scan->checkpoints, t, matrix), S, keys, values, columns);
        if (starts_at(at, t))
            pad_matrix(S, fresh_matrix(scan->fresh, scan->fresh_streams, at, matrix), keys, values, columns);
        float a = strength(writes.decay, t), b = strength(writes.beta, t);
        error_at(scan, at, t, S, a, error);
        for (int64_t v = 0; v < columns; v++)
            u[v] = b * error[v];
        write_all(y, vector_in(scan->query, at, t), a, vector_in(scan->key, at, t), u, S, S, keys,
                  columns);
        memcpy(scan->output + row_of(at, t) * values, y, values * sizeof(float));
        if (scan->error)
            memcpy(scan->error + row_of(at, t) * values, error, values * sizeof(float));
    }
    unpad_matrix(scan->end + index * matrix, S, keys, values, columns);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Write now;
    /* the fresh weights; those before the interval; after each time */
    float *fresh, *before, *after;
} Scratch;

static Scratch scratch_of(const Scan *scan, float *scratch) {
    int64_t rows = padded(scan->keys), columns = padded(scan->values);
    Scratch s = {{scan->keys, scan->values, columns, (int)scan->removes}};
    float **of_values[] = {&s.now.error, &s.now.u, &s.now.y, &s.now.to_u, &s.now.e};
    float **of_keys[] = {&s.now.to_key, &s.now.to_query};
    float **matrices[] = {&s.now.G, &s.fresh, &s.before, &s.after};
    scratch = lay_out(of_values, 5, scratch, columns);
    scratch = lay_out(of_keys, 2, scratch, rows);
    lay_out(matrices, 4, scratch, rows * columns);
    return s;
}

/* One time backward: from the gradient of the weights S after it to that of T before it. */
static void back(const Scan *scan, Place at, const Writes *writes, int64_t t, const float *S,
                 const float *T, Write *w) {
    int64_t keys = scan->keys, values = scan->values, row = row_of(at, t);
    w->b = strength(writes->beta, t), w->a = strength(writes->decay, t);
    w->key = vector_in(scan->key, at, t), w->query = vector_in(scan->query, at, t);
    memcpy(w->error, writes->error.data + t * writes->error.stride, values * sizeof(float));
    memcpy(w->y, scan->from_output + row * values, values * sizeof(float));
    float to_beta = write_back(w), *to_value = scan->to_value + row * values;
    for (int64_t v = 0; v < values; v++)
        to_value[v] = w->b * w->to_u[v];
    if (scan->to_beta)
        scan->to_beta[row] = to_beta;
    if (scan->to_decay)
        scan->to_decay[row] = decay_back(w, T);
    address_back(w, S);
    memcpy(scan->to_key + row * keys, w->to_key, keys * sizeof(float));
    memcpy(scan->to_query + row * keys, w->to_query, keys * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, Place at, float *scratch) {
    const Scan *scan = call;
    int64_t keys = scan->keys, values = scan->values, columns = padded(values);
    int64_t matrix = keys * values, index = index_of(at), each = padded(keys) * columns;
    Scratch s = scratch_of(scan, scratch);
    Writes writes = writes_of(scan, at);
    pad_matrix(s.now.G, scan->from_end + index * matrix, keys, values, columns);
    pad_matrix(s.fresh, fresh_matrix(scan->fresh, scan->fresh_streams, at, matrix), keys, values, columns);
    if (scan->to_fresh)
        memset(scan->to_fresh + index * matrix, 0, matrix * sizeof(float));
    for (int64_t first, last = scan->loop.times; last > 0; last = first) {
        first = interval_before(at, last);
        pad_matrix(s.before, checkpoint_of(at, scan->checkpoints, first, matrix), keys, values,
                   columns);
        recompute(&writes, first, last, s.before, s.fresh, s.after, each, &s.now);
        for (int64_t t = last - 1; t >= first; t--) {
            prefetch_inputs(scan, scan->from_output, at, t - scan->loop.interval);
            prefetch_gradients(scan, at, t - AHEAD);
            const float *S = s.after + (t - first) * each, *T = t > first ? S - each : s.before;
            back(scan, at, &writes, t, S, starts_at(at, t) ? s.fresh : T, &s.now);
            if (!starts_at(at, t))
                continue;
            if (scan->to_fresh)
                add_matrix(scan->to_fresh + index * matrix, s.now.G, keys, values, columns);
            memset(s.now.G, 0, keys * columns * sizeof(float));
        }
    }
    unpad_matrix(scan->to_state + index * matrix, s.now.G, keys, values, columns);
}

static int64_t floats_of(int64_t keys, int64_t values, int64_t matrices) {
    int64_t rows = padded(keys), columns = padded(values);
    return matrices * rows * columns + 5 * columns + 2 * rows;
}

int NAME(scan_forward)(const Scan *scan) {
    return for_all(&scan->loop, scan, floats_of(scan->keys, scan->values, 1), forward);
}

int NAME(scan_backward)(const Scan *scan) {
    int64_t floats = floats_of(scan->keys, scan->values, 3 + scan->loop.interval);
    return for_all(&scan->loop, scan, floats, backward);
}

int NAME(act)(const Act *act) {
    return for_all(&act->loop, act, floats_of(act->keys, act->values, 1), act_head);
}
