/* The delta family with a decay for each key feature, one time after another, with the fast weights
   in cache:

       r  = p S
       S <- a S + k^T v - t^T r    a: decays of the rows; p: where removal looks, before the decay;
       y  = q S                    t: where it takes, k if it is not given

   Nothing is divided by a decay, so that they may be of any strength. */

#include "heads.h"

/* One time of one head. Vectors of values are padded. */
typedef struct {
    int64_t keys, values, columns;
    const float *query, *key, *value, *look, *decay, *taken;
    /* what was removed; what is written at the key: the value, without what is taken there */
    float *removed, *u;
} Time;

static void find(Time *x, const ChannelScan *scan, Place at, int64_t t) {
    x->query = vector_in(scan->query, at, t), x->key = vector_in(scan->key, at, t);
    x->value = vector_in(scan->value, at, t), x->look = vector_in(scan->look, at, t);
    x->decay = vector_in(scan->decay, at, t);
    x->taken = scan->taken ? scan->taken + row_of(at, t) * scan->keys : NULL;
}

static void prefetch_time(const ChannelScan *scan, Place at, int64_t t) {
    if (t < 0 || t >= scan->loop.times)
        return;
    prefetch(vector_in(scan->query, at, t), scan->keys);
    prefetch(vector_in(scan->key, at, t), scan->keys);
    prefetch(vector_in(scan->value, at, t), scan->values);
    prefetch(vector_in(scan->look, at, t), scan->keys);
    prefetch(vector_in(scan->decay, at, t), scan->keys);
    if (scan->taken)
        prefetch(scan->taken + row_of(at, t) * scan->keys, scan->keys);
}

/* u, once it is known what is removed. */
INLINE void compose(const Time *x) {
    for (int64_t v = 0; v < x->values; v++)
        x->u[v] = x->taken ? x->value[v] : x->value[v] - x->removed[v];
}

/* S <- a T + k^T u - t^T r, and y <- q S if there is a y, for COUNT vectors of the columns. */
INLINE void columns_on(const Time *x, const float *T, float *S, float *y, int64_t v, int count,
                       int takes) {
    vec written[4], removed[4], read[4] = {{0}};
    for (int j = 0; j < count; j++) {
        written[j] = load(x->u + v + j * WIDTH);
        removed[j] = load(x->removed + v + j * WIDTH);
    }
    for (int64_t k = 0; k < x->keys; k++)
        for (int j = 0; j < count; j++) {
            int64_t here = k * x->columns + v + j * WIDTH;
            vec s = x->decay[k] * load(T + here) + x->key[k] * written[j];
            if (takes)
                s -= x->taken[k] * removed[j];
            store(S + here, s);
            read[j] += x->query[k] * s;
        }
    if (y)
        for (int j = 0; j < count; j++)
            store(y + v + j * WIDTH, read[j]);
}

/* The same for all columns; T may be S. */
static void advance(const Time *x, const float *T, float *S, float *y) {
    int64_t v = 0;
#define COLUMNS(COUNT)                                                                             \
    (x->taken ? columns_on(x, T, S, y, v, COUNT, 1) : columns_on(x, T, S, y, v, COUNT, 0))
    for (; v + 4 * WIDTH <= x->columns; v += 4 * WIDTH)
        COLUMNS(4);
    for (; v + 2 * WIDTH <= x->columns; v += 2 * WIDTH)
        COLUMNS(2);
    if (v < x->columns)
        COLUMNS(1);
#undef COLUMNS
}

/* One head of one stream. Scratch: three rows and a matrix. */
static void forward(const void *call, Place at, float *scratch) {
    const ChannelScan *scan = call;
    int64_t keys = scan->keys, values = scan->values, columns = padded(values);
    int64_t matrix = keys * values, index = index_of(at);
    float *y = scratch + 2 * columns, *S = y + columns;
    Time x = {keys, values, columns};
    x.removed = scratch, x.u = scratch + columns;
    memset(scratch, 0, 3 * columns * sizeof(float));
    pad_matrix(S, scan->state + index * matrix, keys, values, columns);
    for (int64_t t = 0; t < scan->loop.times; t++) {
        prefetch_time(scan, at, t + AHEAD);
        if (is_checkpoint(at, scan->checkpoints, t))
            unpad_matrix(checkpoint_of(at, scan->checkpoints, t, matrix), S, keys, values, columns);
        if (starts_at(at, t))
            pad_matrix(S, fresh_matrix(scan->fresh, scan->fresh_streams, at, matrix), keys, values, columns);
        find(&x, scan, at, t);
        read_all(x.removed, x.look, S, keys, columns);
        compose(&x);
        advance(&x, S, S, y);
        memcpy(scan->output + row_of(at, t) * values, y, values * sizeof(float));
        if (scan->removed)
            memcpy(scan->removed + row_of(at, t) * values, x.removed, values * sizeof(float));
    }
    unpad_matrix(scan->end + index * matrix, S, keys, values, columns);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Time now;
    /* gradients: of what was read, of what was written at the key, and of what was removed */
    float *y, *to_u, *to_removed;
    /* of the rows of a time */
    float *to_query, *to_key, *to_look, *to_decay, *to_taken;
    /* the gradient of the weights; the fresh weights; those before the interval; after each time */
    float *G, *fresh, *before, *after;
} Scratch;

static Scratch scratch_of(const ChannelScan *scan, float *scratch) {
    int64_t rows = padded(scan->keys), columns = padded(scan->values);
    Scratch s = {{scan->keys, scan->values, columns}};
    float **of_values[] = {&s.now.removed, &s.now.u, &s.y, &s.to_u, &s.to_removed};
    float **of_keys[] = {&s.to_query, &s.to_key, &s.to_look, &s.to_decay, &s.to_taken};
    float **matrices[] = {&s.G, &s.fresh, &s.before, &s.after};
    scratch = lay_out(of_values, 5, scratch, columns);
    scratch = lay_out(of_keys, 5, scratch, rows);
    lay_out(matrices, 4, scratch, rows * columns);
    return s;
}

/* A time of the forward pass again, of which the removed value was saved. */
static void recall(Time *x, const ChannelScan *scan, Place at, int64_t t) {
    find(x, scan, at, t);
    copy(x->removed, scan->removed + row_of(at, t) * scan->values, scan->values);
    compose(x);
}

/* G <- G + q^T y, and then to_u <- k G and to_removed <- -t G, for COUNT vectors of the columns. */
INLINE void columns_back(const Scratch *s, int64_t v, int count, int takes) {
    const Time *x = &s->now;
    vec read[4], to_u[4] = {{0}}, to_removed[4] = {{0}};
    for (int j = 0; j < count; j++)
        read[j] = load(s->y + v + j * WIDTH);
    for (int64_t k = 0; k < x->keys; k++)
        for (int j = 0; j < count; j++) {
            int64_t here = k * x->columns + v + j * WIDTH;
            vec g = load(s->G + here) + x->query[k] * read[j];
            store(s->G + here, g);
            to_u[j] += x->key[k] * g;
            if (takes)
                to_removed[j] -= x->taken[k] * g;
        }
    for (int j = 0; j < count; j++) {
        store(s->to_u + v + j * WIDTH, to_u[j]);
        store(s->to_removed + v + j * WIDTH, takes ? to_removed[j] : -to_u[j]);
    }
}

static void read_back(const Scratch *s) {
    int64_t v = 0, columns = s->now.columns;
#define COLUMNS(COUNT)                                                                             \
    (s->now.taken ? columns_back(s, v, COUNT, 1) : columns_back(s, v, COUNT, 0))
    for (; v + 4 * WIDTH <= columns; v += 4 * WIDTH)
        COLUMNS(4);
    for (; v + 2 * WIDTH <= columns; v += 2 * WIDTH)
        COLUMNS(2);
    if (v < columns)
        COLUMNS(1);
#undef COLUMNS
}

/* The gradients of some rows, up to WIDTH from `from` on, of the weights T before the time:

   to_query[k] = S[k] . y = a T[k] . y + k[k] u . y - t[k] r . y
   to_key[k] = G[k] . u, to_taken[k] = -G[k] . r, to_look[k] = T[k] . to_removed
   to_decay[k] = G[k] . T[k]
   G[k] <- a G[k] + p[k] to_removed */
INLINE void rows_on(const Scratch *s, const float *T, int64_t from, int64_t count, int64_t columns,
                    int takes) {
    const Time *x = &s->now;
    vec queries[WIDTH], keys[WIDTH], looks[WIDTH], decays[WIDTH], takings[WIDTH];
    for (int i = 0; i < WIDTH; i++)
        queries[i] = keys[i] = looks[i] = decays[i] = takings[i] = (vec){0};
    for (int64_t i = 0; i < count; i++) {
        float a = x->decay[from + i], p = x->look[from + i];
        vec to_q = {0}, to_k = {0}, to_p = {0}, to_a = {0}, to_t = {0};
        for (int64_t v = 0; v < columns; v += WIDTH) {
            int64_t here = (from + i) * columns + v;
            vec g = load(s->G + here), old = load(T + here), to_r = load(s->to_removed + v);
            to_q += old * load(s->y + v);
            to_k += g * load(x->u + v);
            to_p += old * to_r;
            to_a += old * g;
            if (takes)
                to_t -= g * load(x->removed + v);
            store(s->G + here, a * g + p * to_r);
        }
        queries[i] = to_q, keys[i] = to_k, looks[i] = to_p, decays[i] = to_a, takings[i] = to_t;
    }
    store(s->to_query + from, sums(queries));
    store(s->to_key + from, sums(keys));
    store(s->to_look + from, sums(looks));
    store(s->to_decay + from, sums(decays));
    if (takes)
        store(s->to_taken + from, sums(takings));
}

/* All rows; the compiler unrolls the usual sizes. */
static void rows_back_on(const Scratch *s, const float *T) {
    const Time *x = &s->now;
    for (int64_t k = 0; k < x->keys; k += WIDTH) {
        int64_t count = x->keys - k < WIDTH ? x->keys - k : WIDTH;
#define ROWS(COUNT, COLUMNS)                                                                       \
    (x->taken ? rows_on(s, T, k, COUNT, COLUMNS, 1) : rows_on(s, T, k, COUNT, COLUMNS, 0))
        if (count == WIDTH && x->columns == 4 * WIDTH)
            ROWS(WIDTH, 4 * WIDTH);
        else if (count == WIDTH && x->columns == 2 * WIDTH)
            ROWS(WIDTH, 2 * WIDTH);
        else
            ROWS(count, x->columns);
#undef ROWS
    }
    float written = 0.0f, removed = 0.0f;
    for (int64_t v = 0; v < x->values; v++) {
        written += x->u[v] * s->y[v];
        removed += x->removed[v] * s->y[v];
    }
    for (int64_t k = 0; k < x->keys; k++) {
        s->to_query[k] = x->decay[k] * s->to_query[k] + x->key[k] * written;
        if (x->taken)
            s->to_query[k] -= x->taken[k] * removed;
    }
}

/* One time backward: from the gradient of the weights after it to that of T before it. */
static void back(const ChannelScan *scan, Place at, int64_t t, const float *T, Scratch *s) {
    int64_t keys = scan->keys, values = scan->values, row = row_of(at, t);
    recall(&s->now, scan, at, t);
    memcpy(s->y, scan->from_output + row * values, values * sizeof(float));
    read_back(s);
    rows_back_on(s, T);
    memcpy(scan->to_value + row * values, s->to_u, values * sizeof(float));
    memcpy(scan->to_query + row * keys, s->to_query, keys * sizeof(float));
    memcpy(scan->to_key + row * keys, s->to_key, keys * sizeof(float));
    memcpy(scan->to_look + row * keys, s->to_look, keys * sizeof(float));
    memcpy(scan->to_decay + row * keys, s->to_decay, keys * sizeof(float));
    if (scan->to_taken)
        memcpy(scan->to_taken + row * keys, s->to_taken, keys * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, Place at, float *scratch) {
    const ChannelScan *scan = call;
    int64_t keys = scan->keys, values = scan->values, columns = padded(values);
    int64_t matrix = keys * values, index = index_of(at), each = padded(keys) * columns;
    Scratch s = scratch_of(scan, scratch);
    pad_matrix(s.G, scan->from_end + index * matrix, keys, values, columns);
    pad_matrix(s.fresh, fresh_matrix(scan->fresh, scan->fresh_streams, at, matrix), keys, values, columns);
    if (scan->to_fresh)
        memset(scan->to_fresh + index * matrix, 0, matrix * sizeof(float));
    for (int64_t first, last = scan->loop.times; last > 0; last = first) {
        first = interval_before(at, last);
        pad_matrix(s.before, checkpoint_of(at, scan->checkpoints, first, matrix), keys, values,
                   columns);
        const float *T = s.before;
        for (int64_t t = first; t < last - 1; t++) {
            recall(&s.now, scan, at, t);
            float *S = s.after + (t - first) * each;
            advance(&s.now, starts_at(at, t) ? s.fresh : T, S, NULL);
            T = S;
        }
        for (int64_t t = last - 1; t >= first; t--) {
            prefetch_time(scan, at, t - scan->loop.interval);
            T = t > first ? s.after + (t - first - 1) * each : s.before;
            back(scan, at, t, starts_at(at, t) ? s.fresh : T, &s);
            if (!starts_at(at, t))
                continue;
            if (scan->to_fresh)
                add_matrix(scan->to_fresh + index * matrix, s.G, keys, values, columns);
            memset(s.G, 0, keys * columns * sizeof(float));
        }
    }
    unpad_matrix(scan->to_state + index * matrix, s.G, keys, values, columns);
}

int NAME(channel_scan_forward)(const ChannelScan *scan) {
    int64_t columns = padded(scan->values);
    return for_all(&scan->loop, scan, (3 + scan->keys) * columns, forward);
}

int NAME(channel_scan_backward)(const ChannelScan *scan) {
    int64_t rows = padded(scan->keys), columns = padded(scan->values);
    int64_t floats = (3 + scan->loop.interval) * rows * columns + 5 * (rows + columns);
    return for_all(&scan->loop, scan, floats, backward);
}
