/* The delta family of update rules, one time after another, with the fast weights in cache:

       S <- a S            a: decay
       u  = b (v - k S)    without "k S" if the rule does not remove what it overwrites; b: beta
       S <- S + k^T u
       y  = q S

   One head of one stream is the work of one thread. This file is compiled once for each set of
   instructions (VARIANT), and dispatch.c chooses among them. */

#include <string.h>

#include "scan.h"
#include "unit.h"
#include "weights.h"

/* Floats of a cache line, and times between the wish for a row and its use. */
enum { LINE = 16, AHEAD = 4 };

/* One head of one stream, with rows that are filled up to whole vectors. */
typedef struct {
    const Scan *scan;
    int64_t b, h;
    /* keys and values, rounded up to whole vectors */
    int64_t rows, columns;
} Head;

static Head head_of(const Scan *scan, int64_t b, int64_t h) {
    return (Head){scan, b, h, whole(scan->keys), whole(scan->values)};
}

INLINE float *at(Sequence x, const Head *head, int64_t t) {
    return x.data + head->b * x.stream + t * x.time + head->h * x.head;
}

/* Where [B T H size] without gaps has this time. */
INLINE int64_t place(const Head *head, int64_t t, int64_t size) {
    const Scan *scan = head->scan;
    return ((head->b * scan->times + t) * scan->heads + head->h) * size;
}

/* Have a row of a later call in cache: rows of one head lie too far apart to be foreseen. */
INLINE void expect(const float *row, int64_t size) {
    for (int64_t i = 0; i < size; i += LINE)
        __builtin_prefetch(row + i);
}

/* The inputs of a time, if there is one. */
INLINE void expect_inputs(const Head *head, int64_t t) {
    const Scan *scan = head->scan;
    if (t < 0 || t >= scan->times)
        return;
    expect(at(scan->query, head, t), scan->keys);
    expect(at(scan->key, head, t), scan->keys);
    expect(at(scan->value, head, t), scan->values);
    expect(scan->output + place(head, t, scan->values), scan->values);
    if (scan->error)
        expect(scan->error + place(head, t, scan->values), scan->values);
}

/* The gradients of the inputs of a time, which are about to be written. */
INLINE void expect_gradients(const Head *head, int64_t t) {
    const Scan *scan = head->scan;
    if (t < 0)
        return;
    expect(scan->to_query + place(head, t, scan->keys), scan->keys);
    expect(scan->to_key + place(head, t, scan->keys), scan->keys);
    expect(scan->to_value + place(head, t, scan->values), scan->values);
}

INLINE Times strengths(const float *first, const Head *head) {
    return (Times){first ? first + place(head, 0, 1) : NULL, head->scan->heads};
}

INLINE Times times_of(Sequence x, const Head *head) { return (Times){at(x, head, 0), x.time}; }

/* What the head writes; the error is that of the forward pass. */
static Writes writes_of(const Head *head) {
    const Scan *scan = head->scan;
    Times error = {scan->error + place(head, 0, scan->values), scan->heads * scan->values};
    return (Writes){times_of(scan->key, head),
                    scan->error ? error : times_of(scan->value, head),
                    strengths(scan->beta, head),
                    strengths(scan->decay, head),
                    scan->starts ? scan->starts + head->b * scan->times : NULL};
}

static const float *fresh_of(const Head *head) {
    const Scan *scan = head->scan;
    if (!scan->fresh_streams)
        return NULL;
    int64_t b = scan->fresh_streams == 1 ? 0 : head->b;
    return scan->fresh + (b * scan->heads + head->h) * scan->keys * scan->values;
}

/* What is written before beta, into `error`. */
INLINE void error_at(const Head *head, int64_t t, const float *S, float a, float *error) {
    const Scan *scan = head->scan;
    const float *value = at(scan->value, head, t);
    if (scan->removes) {
        read_all(error, at(scan->key, head, t), S, scan->keys, head->columns);
        for (int64_t v = 0; v < scan->values; v++)
            error[v] = value[v] - a * error[v];
    } else {
        memcpy(error, value, scan->values * sizeof(float));
    }
}

/* One time that starts nothing, from the weights T to the weights S. `row` is scratch. */
static void step(const Head *head, const float *T, float *S, float *row) {
    const Scan *scan = head->scan;
    int64_t keys = scan->keys, values = scan->values, columns = head->columns;
    float *error = row, *u = error + columns, *y = u + columns;
    float *query = y + columns, *key = query + head->rows;
    float a = strength(strengths(scan->decay, head), 0), b = strength(strengths(scan->beta, head), 0);
    const float *value = at(scan->value, head, 0);
    if (scan->projected) {
        unit_address(query, at(scan->query, head, 0), keys, (float)scan->epsilon);
        unit_address(key, at(scan->key, head, 0), keys, (float)scan->epsilon);
        b = scan->beta ? (float)scan->max_beta * sigmoid(b) : 1.0f;
    } else {
        take(query, at(scan->query, head, 0), keys, keys);
        take(key, at(scan->key, head, 0), keys, keys);
    }
    if (scan->removes)
        read_all(error, key, T, keys, columns);
    for (int64_t v = 0; v < values; v++)
        u[v] = b * (scan->removes ? value[v] - a * error[v] : value[v]);
    write_all(y, query, a, key, u, T, S, keys, columns);
    memcpy(scan->output + place(head, 0, values), y, values * sizeof(float));
}

/* One head of one stream. Scratch: a matrix, and three rows. */
static void forward(const void *call, int64_t b, int64_t h, float *scratch) {
    const Scan *scan = call;
    Head here = head_of(scan, b, h), *head = &here;
    int64_t keys = scan->keys, values = scan->values, columns = head->columns;
    int64_t matrix = keys * values, index = head->b * scan->heads + head->h;
    int64_t kept = (scan->times + scan->interval - 1) / scan->interval;
    float *S = scratch, *error = S + keys * columns, *u = error + columns, *y = u + columns;
    memset(error, 0, 3 * columns * sizeof(float));
    if (!scan->starts && scan->times == 1 && columns == values) {
        step(head, scan->state + index * matrix, scan->end + index * matrix, error);
        return;
    }
    Writes writes = writes_of(head);
    take_matrix(S, scan->state + index * matrix, keys, values, columns);
    if (!scan->starts && scan->times == 1) {
        step(head, S, S, error);
        give_matrix(scan->end + index * matrix, S, keys, values, columns);
        return;
    }
    for (int64_t t = 0; t < scan->times; t++) {
        expect_inputs(head, t + AHEAD);
        if (scan->kept && t % scan->interval == 0)
            give_matrix(scan->kept + (index * kept + t / scan->interval) * matrix, S, keys, values, columns);
        if (writes.starts && writes.starts[t])
            take_matrix(S, fresh_of(head), keys, values, columns);
        float a = strength(writes.decay, t), b = strength(writes.beta, t);
        error_at(head, t, S, a, error);
        for (int64_t v = 0; v < columns; v++)
            u[v] = b * error[v];
        write_all(y, at(scan->query, head, t), a, at(scan->key, head, t), u, S, S, keys, columns);
        memcpy(scan->output + place(head, t, values), y, values * sizeof(float));
        if (scan->error)
            memcpy(scan->error + place(head, t, values), error, values * sizeof(float));
    }
    give_matrix(scan->end + index * matrix, S, keys, values, columns);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Written now;
    /* the fresh weights; those before the interval; after each time */
    float *fresh, *before, *after;
} Scratch;

/* <G, S> - (k S) . e, the gradient of the decay; S: the weights before it. */
static float decay_back(const float *G, const float *S, const float *k, const float *e,
                        int64_t keys, int64_t columns) {
    vec total = {0};
    for (int64_t row = 0; row < keys; row++)
        for (int64_t v = 0; v < columns; v += WIDTH)
            total += load(S + row * columns + v) *
                     (load(G + row * columns + v) - k[row] * load(e + v));
    return sum(total);
}

static Scratch lay_out(float *scratch, const Head *head) {
    const Scan *scan = head->scan;
    int64_t matrix = head->rows * head->columns, columns = head->columns;
    Scratch s = {{scan->keys, scan->values, columns, (int)scan->removes}};
    s.now.G = scratch;
    s.fresh = s.now.G + matrix;
    s.before = s.fresh + matrix;
    s.after = s.before + matrix;
    s.now.error = s.after + scan->interval * matrix;
    s.now.u = s.now.error + columns;
    s.now.y = s.now.u + columns;
    s.now.to_u = s.now.y + columns;
    s.now.e = s.now.to_u + columns;
    s.now.to_key = s.now.e + columns;
    s.now.to_query = s.now.to_key + head->rows;
    memset(s.now.error, 0, 5 * columns * sizeof(float));
    return s;
}

/* One time backwards: from the gradient of the weights S after it to that of T before it. */
static void back(const Head *head, const Writes *writes, int64_t t, const float *S, const float *T,
                 Written *w) {
    const Scan *scan = head->scan;
    int64_t keys = scan->keys, values = scan->values;
    w->b = strength(writes->beta, t), w->a = strength(writes->decay, t);
    w->key = at(scan->key, head, t), w->query = at(scan->query, head, t);
    memcpy(w->error, writes->error.data + t * writes->error.stride, values * sizeof(float));
    memcpy(w->y, scan->output + place(head, t, values), values * sizeof(float));
    float to_beta = written_back(w), *to_value = scan->to_value + place(head, t, values);
    for (int64_t v = 0; v < values; v++)
        to_value[v] = w->b * w->to_u[v];
    if (scan->to_beta)
        scan->to_beta[place(head, t, 1)] = to_beta;
    if (scan->to_decay)
        scan->to_decay[place(head, t, 1)] = decay_back(w->G, T, w->key, w->e, keys, w->columns);
    address_back(w, S);
    memcpy(scan->to_key + place(head, t, keys), w->to_key, keys * sizeof(float));
    memcpy(scan->to_query + place(head, t, keys), w->to_query, keys * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, int64_t b, int64_t h, float *scratch) {
    const Scan *scan = call;
    Head here = head_of(scan, b, h), *head = &here;
    int64_t keys = scan->keys, values = scan->values, columns = head->columns;
    int64_t matrix = keys * values;
    int64_t index = head->b * scan->heads + head->h;
    int64_t count = (scan->times + scan->interval - 1) / scan->interval;
    Scratch s = lay_out(scratch, head);
    Writes writes = writes_of(head);
    take_matrix(s.now.G, scan->end + index * matrix, keys, values, columns);
    take_matrix(s.fresh, fresh_of(head), keys, values, columns);
    if (scan->to_fresh)
        memset(scan->to_fresh + index * matrix, 0, matrix * sizeof(float));
    for (int64_t n = count - 1; n >= 0; n--) {
        int64_t first = n * scan->interval, last = first + scan->interval;
        last = last < scan->times ? last : scan->times;
        take_matrix(s.before, scan->kept + (index * count + n) * matrix, keys, values, columns);
        again(&writes, first, last, s.before, s.fresh, s.after, head->rows * columns, &s.now);
        for (int64_t t = last - 1; t >= first; t--) {
            expect_inputs(head, t - scan->interval);
            expect_gradients(head, t - AHEAD);
            const float *S = s.after + (t - first) * head->rows * columns;
            const float *T = t > first ? S - head->rows * columns : s.before;
            int starts = writes.starts && writes.starts[t];
            back(head, &writes, t, S, starts ? s.fresh : T, &s.now);
            if (!starts)
                continue;
            if (scan->to_fresh)
                add_matrix(scan->to_fresh + index * matrix, s.now.G, keys, values, columns);
            memset(s.now.G, 0, keys * columns * sizeof(float));
        }
    }
    give_matrix(scan->to_state + index * matrix, s.now.G, keys, values, columns);
}

static int run(const Scan *scan, int64_t matrices,
               void (*work)(const void *, int64_t, int64_t, float *)) {
    int64_t rows = whole(scan->keys), columns = whole(scan->values);
    int64_t floats = matrices * rows * columns + 5 * columns + 2 * rows;
    return for_all(scan, scan->streams, scan->heads, scan->threads, floats, work);
}

int NAME(scan_forward)(const Scan *scan) { return run(scan, 1, forward); }

int NAME(scan_backward)(const Scan *scan) { return run(scan, 3 + scan->interval, backward); }
