/* The delta family of update rules, one time after another, with the fast weights in cache:

       S <- a S            a: decay
       u  = b (v - k S)    without "k S" if the rule does not remove what it overwrites; b: beta
       S <- S + k^T u
       y  = q S

   One head of one stream is the work of one thread. This file is compiled once for each set of
   instructions (VARIANT), and dispatch.c chooses among them. */

#include <stdlib.h>
#include <string.h>

#include "scan.h"
#include "unit.h"
#include "vectors.h"

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(name) JOIN(name, VARIANT)

/* Floats of a cache line, and times between the wish for a row and its use. */
enum { LINE = 16, AHEAD = 4 };

/* One head of one stream, with rows that are filled up to whole vectors. */
typedef struct {
    const Scan *scan;
    int64_t b, h;
    /* keys and values, rounded up to whole vectors */
    int64_t rows, columns;
} Head;

INLINE int64_t whole(int64_t size) { return (size + WIDTH - 1) / WIDTH * WIDTH; }

INLINE float *at(Sequence x, const Head *head, int64_t t) {
    return x.data + head->b * x.stream + t * x.time + head->h * x.head;
}

/* Where [B T H size] without gaps has this time. */
INLINE int64_t place(const Head *head, int64_t t, int64_t size) {
    const Scan *scan = head->scan;
    return ((head->b * scan->times + t) * scan->heads + head->h) * size;
}

INLINE int starts_at(const Head *head, int64_t t) {
    const uint8_t *starts = head->scan->starts;
    return starts && starts[head->b * head->scan->times + t];
}

INLINE float strength(const float *strengths, const Head *head, int64_t t) {
    return strengths ? strengths[place(head, t, 1)] : 1.0f;
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

/* Fill a vector up with zeros. */
INLINE void take(float *to, const float *from, int64_t size, int64_t filled) {
    memcpy(to, from, size * sizeof(float));
    memset(to + size, 0, (filled - size) * sizeof(float));
}

static void take_matrix(float *to, const float *from, const Head *head) {
    int64_t keys = head->scan->keys, values = head->scan->values, columns = head->columns;
    if (!from)
        memset(to, 0, keys * columns * sizeof(float));
    else
        for (int64_t k = 0; k < keys; k++)
            take(to + k * columns, from + k * values, values, columns);
}

static void give_matrix(float *to, const float *from, const Head *head) {
    int64_t values = head->scan->values;
    for (int64_t k = 0; k < head->scan->keys; k++)
        memcpy(to + k * values, from + k * head->columns, values * sizeof(float));
}

static const float *fresh_of(const Head *head) {
    const Scan *scan = head->scan;
    if (!scan->fresh_streams)
        return NULL;
    int64_t b = scan->fresh_streams == 1 ? 0 : head->b;
    return scan->fresh + (b * scan->heads + head->h) * scan->keys * scan->values;
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
    float a = strength(scan->decay, head, 0), b = strength(scan->beta, head, 0);
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
static void forward(const Head *head, float *scratch) {
    const Scan *scan = head->scan;
    int64_t keys = scan->keys, values = scan->values, columns = head->columns;
    int64_t matrix = keys * values, index = head->b * scan->heads + head->h;
    int64_t kept = (scan->times + scan->interval - 1) / scan->interval;
    float *S = scratch, *error = S + keys * columns, *u = error + columns, *y = u + columns;
    memset(error, 0, 3 * columns * sizeof(float));
    if (!scan->starts && scan->times == 1 && columns == values) {
        step(head, scan->state + index * matrix, scan->end + index * matrix, error);
        return;
    }
    take_matrix(S, scan->state + index * matrix, head);
    if (!scan->starts && scan->times == 1) {
        step(head, S, S, error);
        give_matrix(scan->end + index * matrix, S, head);
        return;
    }
    for (int64_t t = 0; t < scan->times; t++) {
        expect_inputs(head, t + AHEAD);
        if (scan->kept && t % scan->interval == 0)
            give_matrix(scan->kept + (index * kept + t / scan->interval) * matrix, S, head);
        if (starts_at(head, t))
            take_matrix(S, fresh_of(head), head);
        float a = strength(scan->decay, head, t), b = strength(scan->beta, head, t);
        error_at(head, t, S, a, error);
        for (int64_t v = 0; v < columns; v++)
            u[v] = b * error[v];
        write_all(y, at(scan->query, head, t), a, at(scan->key, head, t), u, S, S, keys, columns);
        memcpy(scan->output + place(head, t, values), y, values * sizeof(float));
        if (scan->error)
            memcpy(scan->error + place(head, t, values), error, values * sizeof(float));
    }
    give_matrix(scan->end + index * matrix, S, head);
}


/* The scratch of the backward pass of one head. */
typedef struct {
    /* the gradient of the weights; the fresh weights; those before the interval; after each time */
    float *G, *fresh, *before, *after;
    float *error, *u, *y, *to_u, *e, *to_key, *to_query;
} Scratch;

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
static void all_rows_back(const Scratch *s, const float *S, const float *key, float a, int64_t keys,
                          int64_t columns) {
    for (int64_t k = 0; k < keys; k += WIDTH) {
        int64_t count = keys - k < WIDTH ? keys - k : WIDTH, from = k * columns;
#define ROWS_BACK(COUNT, COLUMNS)                                                                  \
    rows_back(s->to_key + k, s->to_query + k, s->G + from, S + from, s->u, s->e, s->y, key + k, a, \
              COUNT, COLUMNS)
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
    int64_t matrix = head->rows * head->columns, columns = head->columns;
    Scratch s;
    s.G = scratch;
    s.fresh = s.G + matrix;
    s.before = s.fresh + matrix;
    s.after = s.before + matrix;
    s.error = s.after + head->scan->interval * matrix;
    s.u = s.error + columns;
    s.y = s.u + columns;
    s.to_u = s.y + columns;
    s.e = s.to_u + columns;
    s.to_key = s.e + columns;
    s.to_query = s.to_key + head->rows;
    return s;
}

/* The weights after each time from `first` on, once more. */
static void again(const Head *head, int64_t first, int64_t last, const Scratch *s) {
    const Scan *scan = head->scan;
    int64_t matrix = head->rows * head->columns, values = scan->values;
    const float *S = s->before;
    for (int64_t t = first; t < last; t++) {
        const float *error =
            scan->error ? scan->error + place(head, t, values) : at(scan->value, head, t);
        float b = strength(scan->beta, head, t), a = strength(scan->decay, head, t);
        for (int64_t v = 0; v < values; v++)
            s->u[v] = b * error[v];
        if (starts_at(head, t))
            S = s->fresh;
        float *after = s->after + (t - first) * matrix;
        write_only(a, at(scan->key, head, t), s->u, S, after, scan->keys, head->columns);
        S = after;
    }
}

/* One time backwards: from the gradient of the weights after it to that of those before it. */
static void back(const Head *head, int64_t t, const float *S, const float *T, const Scratch *s) {
    const Scan *scan = head->scan;
    int64_t keys = scan->keys, values = scan->values, columns = head->columns;
    const float *key = at(scan->key, head, t), *value = at(scan->value, head, t);
    float b = strength(scan->beta, head, t), a = strength(scan->decay, head, t);
    memcpy(s->error, scan->error ? scan->error + place(head, t, values) : value,
           values * sizeof(float));
    memcpy(s->y, scan->output + place(head, t, values), values * sizeof(float));
    /* G <- G + q^T y, to_u <- k G */
    write_all(s->to_u, key, 1.0f, at(scan->query, head, t), s->y, s->G, s->G, keys, columns);
    float to_beta = 0.0f, along = 0.0f, *to_value = scan->to_value + place(head, t, values);
    for (int64_t v = 0; v < values; v++) {
        to_beta += s->to_u[v] * s->error[v];
        s->u[v] = b * s->error[v];
        to_value[v] = b * s->to_u[v];
        s->e[v] = scan->removes ? to_value[v] : 0.0f;
        along += s->u[v] * s->e[v];
    }
    if (scan->to_beta)
        scan->to_beta[place(head, t, 1)] = to_beta;
    if (scan->to_decay)
        scan->to_decay[place(head, t, 1)] = decay_back(s->G, T, key, s->e, keys, columns);
    all_rows_back(s, S, key, a, keys, columns);
    float *to_key = scan->to_key + place(head, t, keys);
    for (int64_t k = 0; k < keys; k++)
        to_key[k] = s->to_key[k] + along * key[k];
    memcpy(scan->to_query + place(head, t, keys), s->to_query, keys * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const Head *head, float *scratch) {
    const Scan *scan = head->scan;
    int64_t columns = head->columns, matrix = scan->keys * scan->values;
    int64_t index = head->b * scan->heads + head->h;
    int64_t count = (scan->times + scan->interval - 1) / scan->interval;
    Scratch s = lay_out(scratch, head);
    memset(s.error, 0, 5 * columns * sizeof(float));
    take_matrix(s.G, scan->end + index * matrix, head);
    take_matrix(s.fresh, fresh_of(head), head);
    if (scan->to_fresh)
        memset(scan->to_fresh + index * matrix, 0, matrix * sizeof(float));
    for (int64_t n = count - 1; n >= 0; n--) {
        int64_t first = n * scan->interval, last = first + scan->interval;
        last = last < scan->times ? last : scan->times;
        take_matrix(s.before, scan->kept + (index * count + n) * matrix, head);
        again(head, first, last, &s);
        for (int64_t t = last - 1; t >= first; t--) {
            expect_inputs(head, t - scan->interval);
            expect_gradients(head, t - AHEAD);
            const float *S = s.after + (t - first) * head->rows * columns;
            const float *T = t > first ? S - head->rows * columns : s.before;
            back(head, t, S, starts_at(head, t) ? s.fresh : T, &s);
            if (!starts_at(head, t))
                continue;
            if (scan->to_fresh)
                for (int64_t k = 0; k < scan->keys; k++)
                    for (int64_t v = 0; v < scan->values; v++)
                        scan->to_fresh[index * matrix + k * scan->values + v] += s.G[k * columns + v];
            memset(s.G, 0, scan->keys * columns * sizeof(float));
        }
    }
    give_matrix(scan->to_state + index * matrix, s.G, head);
}

/* Every head of every stream. Returns 0, or 1 if there is no memory for the scratch. */
static int for_all(const Scan *scan, void (*run)(const Head *, float *), int64_t matrices) {
    int64_t rows = whole(scan->keys), columns = whole(scan->values), failed = 0;
    int64_t size = matrices * rows * columns + 5 * columns + 2 * rows;
    size = (size * sizeof(float) + 63) / 64 * 64;
#pragma omp parallel num_threads(scan->threads) if (scan->threads > 1)
    {
        float *scratch = aligned_alloc(64, size);
        if (!scratch) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < scan->streams * scan->heads; i++) {
            Head head = {scan, i / scan->heads, i % scan->heads, rows, columns};
            if (scratch)
                run(&head, scratch);
        }
        free(scratch);
    }
    return (int)failed;
}

int NAME(scan_forward)(const Scan *scan) { return for_all(scan, forward, 1); }

int NAME(scan_backward)(const Scan *scan) { return for_all(scan, backward, 3 + scan->interval); }
