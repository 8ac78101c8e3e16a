/* The delta family from the projections of a layer on: SiLU and unit length of queries and keys, the
   sigmoid of beta, and the scan of scan.c, forward and backward in one pass over memory.

   Between two checkpoints lies a span of times, whose rows are brought together in scratch. */

#include "activations.h"
#include "heads.h"
#include "spans.h"

INLINE const float *projected_at(const ProjectedScan *scan, Place at, int64_t t) {
    return scan->projected + (at.b * at.loop->times + t) * scan->row;
}

/* Where a head's queries, keys, values and beta lie in a row of projections. */
typedef struct {
    int64_t query, key, value, logit;
} Offsets;

static Offsets offsets_of(const ProjectedScan *scan, Place at) {
    int64_t keys = at.heads * scan->keys, values = at.heads * scan->values;
    return (Offsets){at.h * scan->keys, keys + at.h * scan->keys, 2 * keys + at.h * scan->values,
                     2 * keys + values + at.h};
}

/* What the next span reads, a time after the other. */
INLINE void prefetch_time(const ProjectedScan *scan, Place at, Offsets part, int64_t t,
                          const float *beside) {
    if (t < 0 || t >= scan->loop.times)
        return;
    const float *row = projected_at(scan, at, t);
    prefetch(row + part.query, scan->keys);
    prefetch(row + part.key, scan->keys);
    if (!scan->error)
        prefetch(row + part.value, scan->values);
    else
        prefetch(scan->error + row_of(at, t) * scan->values, scan->values);
    prefetch(beside + row_of(at, t) * scan->values, scan->values);
}

/* The rows of a span: features of queries and keys, and what they are multiplied by backward. */
typedef struct {
    int64_t first, count;
    float *query, *key, *query_slope, *key_slope;
    /* values forward, backward what was written before beta; the gradient of what was read */
    float *value, *y;
    /* backward: gradients of the features, and of the value */
    float *to_query, *to_key, *to_value;
    float *beta, *to_beta;
} Span;

static Span span_in(float **scratch, const ProjectedScan *scan) {
    int64_t times = scan->loop.interval, K = times * padded(scan->keys);
    int64_t V = times * padded(scan->values), B = padded(times);
    Span s = {0, 0};
    float **of_keys[] = {&s.query, &s.key, &s.query_slope, &s.key_slope, &s.to_query, &s.to_key};
    float **of_values[] = {&s.value, &s.y, &s.to_value}, **of_beta[] = {&s.beta, &s.to_beta};
    *scratch = lay_out(of_keys, 6, *scratch, K);
    *scratch = lay_out(of_values, 3, *scratch, V);
    *scratch = lay_out(of_beta, 2, *scratch, B);
    return s;
}

static int64_t floats_of_span(const ProjectedScan *scan) {
    int64_t times = scan->loop.interval;
    return times * (6 * padded(scan->keys) + 3 * padded(scan->values)) + 2 * padded(times);
}

INLINE float decay_at(const ProjectedScan *scan, Place at, int64_t t) {
    return scan->decay ? scan->decay[row_of(at, t)] : 1.0f;
}

/* The addresses and betas of times from `first` on. */
static void read_span(Span *s, const ProjectedScan *scan, Place at, Offsets part, int64_t first,
                      int back) {
    int64_t K = padded(scan->keys), rest = scan->loop.times - first;
    s->first = first, s->count = rest < scan->loop.interval ? rest : scan->loop.interval;
    for (int64_t i = 0; i < s->count; i++) {
        const float *row = projected_at(scan, at, first + i);
        pad(s->query + i * K, row + part.query, scan->keys, K);
        pad(s->key + i * K, row + part.key, scan->keys, K);
        s->beta[i] = scan->bias ? sigmoid(row[part.logit] + scan->bias[at.h]) : 1.0f;
    }
    unit_rows(s->query, back ? s->query_slope : NULL, s->count, K, (float)scan->epsilon);
    unit_rows(s->key, back ? s->key_slope : NULL, s->count, K, (float)scan->epsilon);
}

/* One head of one stream. Scratch: a span, two rows and two matrices. */
static void forward(const void *call, Place at, float *scratch) {
    const ProjectedScan *scan = call;
    int64_t keys = scan->keys, values = scan->values, columns = padded(values), K = padded(keys);
    int64_t matrix = keys * values, index = index_of(at), times = scan->loop.times;
    Span s = span_in(&scratch, scan);
    Offsets part = offsets_of(scan, at);
    float *error = scratch, *known = error + columns, *y = known + columns;
    float *S = y + columns, *fresh = S + K * columns, *u = s.y;
    float scale = scan->bias ? (float)scan->max_beta : 1.0f;
    memset(scratch, 0, 3 * columns * sizeof(float));
    pad_matrix(S, scan->state + index * matrix, keys, values, columns);
    pad_matrix(fresh, fresh_matrix(scan->fresh, scan->fresh_streams, at, matrix), keys, values, columns);
    for (int64_t first = 0; first < times; first += s.count) {
        read_span(&s, scan, at, part, first, 0);
        if (scan->checkpoints)
            unpad_matrix(checkpoint_of(at, scan->checkpoints, first, matrix), S, keys, values,
                        columns);
        for (int64_t i = 0; i < s.count; i++)
            pad(s.value + i * columns, projected_at(scan, at, first + i) + part.value, values,
                columns);
        for (int64_t i = 0; i < s.count; i++) {
            int64_t t = first + i, begins = starts_at(at, t), row = row_of(at, t) * values;
            const float *key = s.key + i * K, *value = s.value + i * columns;
            float a = decay_at(scan, at, t), b = scale * s.beta[i];
            prefetch_time(scan, at, part, t + scan->loop.interval, scan->output);
            if (begins)
                memcpy(S, fresh, keys * columns * sizeof(float));
            if (scan->removes && (begins || !i))
                read_all(known, key, S, keys, columns);
            for (int64_t v = 0; v < columns; v += WIDTH) {
                vec e = load(value + v);
                if (scan->removes)
                    e -= a * load(known + v);
                store(error + v, e);
                store(u + v, b * e);
            }
            if (scan->removes && i + 1 < s.count)
                write_and_read(y, s.query + i * K, known, key + K, a, key, u, S, keys, columns);
            else
                write_all(y, s.query + i * K, a, key, u, S, S, keys, columns);
            copy(scan->output + row, y, values);
            if (scan->error)
                copy(scan->error + row, error, values);
        }
    }
    unpad_matrix(scan->end + index * matrix, S, keys, values, columns);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Span span;
    Write now;
    /* the fresh weights; those before the span; after each of its times */
    float *fresh, *before, *after;
} Scratch;

static Scratch scratch_of(const ProjectedScan *scan, float *scratch) {
    int64_t K = padded(scan->keys), columns = padded(scan->values);
    Scratch s = {span_in(&scratch, scan), {scan->keys, scan->values, columns, (int)scan->removes}};
    float **of_values[] = {&s.now.u, &s.now.e, &s.now.to_u};
    float **matrices[] = {&s.now.G, &s.fresh, &s.before, &s.after};
    scratch = lay_out(of_values, 3, scratch, columns);
    lay_out(matrices, 4, scratch, K * columns);
    return s;
}

/* What was written before beta, and the gradient of what was read. */
static void read_back(Span *s, const ProjectedScan *scan, Place at, Offsets part) {
    int64_t values = scan->values, columns = padded(values);
    for (int64_t i = 0; i < s->count; i++) {
        int64_t t = s->first + i, row = row_of(at, t) * values;
        const float *written = projected_at(scan, at, t) + part.value;
        pad(s->value + i * columns, scan->error ? scan->error + row : written, values, columns);
        pad(s->y + i * columns, scan->from_output + row, values, columns);
    }
}

/* The weights after each time of the span. */
static void recompute_span(Scratch *s, const ProjectedScan *scan, Place at, float scale) {
    const Span *x = &s->span;
    int64_t keys = scan->keys, columns = padded(scan->values), K = padded(keys);
    const float *T = s->before;
    float *after = s->after;
    for (int64_t i = 0; i < x->count; i++, after += K * columns) {
        for (int64_t v = 0; v < columns; v += WIDTH)
            store(s->now.u + v, scale * x->beta[i] * load(x->value + i * columns + v));
        if (starts_at(at, x->first + i))
            T = s->fresh;
        write_only(decay_at(scan, at, x->first + i), x->key + i * K, s->now.u, T, after, keys,
                   columns);
        T = after;
    }
}

/* All times of a span backward; G is the gradient of the weights after the last, then before the
   first. */
static void back_through(Scratch *s, const ProjectedScan *scan, Place at, float scale) {
    Span *x = &s->span;
    Write *w = &s->now;
    int64_t keys = scan->keys, columns = padded(scan->values), K = padded(keys);
    int64_t matrix = keys * scan->values;
    int read = 0;
    for (int64_t i = x->count - 1; i >= 0; i--) {
        int64_t t = x->first + i, begins = starts_at(at, t);
        const float *S = s->after + i * K * columns, *T = i ? S - K * columns : s->before;
        const float *key = x->key + i * K, *query = x->query + i * K;
        float *y = x->y + i * columns, *error = x->value + i * columns;
        float a = decay_at(scan, at, t), b = scale * x->beta[i];
        if (!read)
            write_all(w->to_u, key, 1.0f, query, y, w->G, w->G, keys, columns);
        for (int64_t v = 0; v < columns; v += WIDTH) {
            vec to_value = b * load(w->to_u + v);
            store(x->to_value + i * columns + v, to_value);
            store(w->e + v, scan->removes ? to_value : (vec){0});
            store(w->u + v, b * load(error + v));
        }
        x->to_beta[i] = dot(w->to_u, error, columns);
        if (scan->to_decay) {
            w->key = key;
            scan->to_decay[row_of(at, t)] = decay_back(w, begins ? s->fresh : T);
        }
        read = i && !begins && fits_between(columns);
        if (read) {
            Between now = {key, w->u, w->e, y, query - K, key - K, y - columns, x->to_key + i * K,
                           x->to_query + i * K, w->to_u, a};
            between(&now, w->G, S, keys, columns);
        } else {
            all_rows_back(x->to_key + i * K, x->to_query + i * K, w->G, S, w->u, w->e, y, key, a,
                          keys, columns);
        }
        float along = dot(w->u, w->e, columns);
        for (int64_t k = 0; k < K; k += WIDTH)
            store(x->to_key + i * K + k, load(x->to_key + i * K + k) + along * load(key + k));
        if (!begins)
            continue;
        if (scan->to_fresh)
            add_matrix(scan->to_fresh + index_of(at) * matrix, w->G, keys, scan->values, columns);
        memset(w->G, 0, keys * columns * sizeof(float));
    }
}

static void write_gradients(const Scratch *s, const ProjectedScan *scan, Place at, Offsets part) {
    const Span *x = &s->span;
    int64_t keys = scan->keys, values = scan->values, K = padded(keys), columns = padded(values);
    unit_rows_back(x->to_query, x->query, x->query_slope, x->count, K);
    unit_rows_back(x->to_key, x->key, x->key_slope, x->count, K);
    for (int64_t i = 0; i < x->count; i++) {
        float *row = scan->to_projected +
                     (at.b * at.loop->times + x->first + i) * scan->row, beta = x->beta[i];
        copy(row + part.query, x->to_query + i * K, keys);
        copy(row + part.key, x->to_key + i * K, keys);
        copy(row + part.value, x->to_value + i * columns, values);
        if (scan->bias)
            row[part.logit] = (float)scan->max_beta * beta * (1.0f - beta) * x->to_beta[i];
    }
}

/* One head of one stream, from the last span to the first. */
static void backward(const void *call, Place at, float *scratch) {
    const ProjectedScan *scan = call;
    int64_t keys = scan->keys, values = scan->values, columns = padded(values);
    int64_t matrix = keys * values, index = index_of(at);
    float scale = scan->bias ? (float)scan->max_beta : 1.0f;
    Scratch s = scratch_of(scan, scratch);
    Offsets part = offsets_of(scan, at);
    pad_matrix(s.now.G, scan->from_end + index * matrix, keys, values, columns);
    pad_matrix(s.fresh, fresh_matrix(scan->fresh, scan->fresh_streams, at, matrix), keys, values, columns);
    if (scan->to_fresh)
        memset(scan->to_fresh + index * matrix, 0, matrix * sizeof(float));
    for (int64_t first, last = scan->loop.times; last > 0; last = first) {
        first = interval_before(at, last);
        for (int64_t t = first - scan->loop.interval; t < first; t++)
            prefetch_time(scan, at, part, t, scan->from_output);
        pad_matrix(s.before, checkpoint_of(at, scan->checkpoints, first, matrix), keys, values,
                   columns);
        read_span(&s.span, scan, at, part, first, 1);
        read_back(&s.span, scan, at, part);
        recompute_span(&s, scan, at, scale);
        back_through(&s, scan, at, scale);
        write_gradients(&s, scan, at, part);
    }
    unpad_matrix(scan->to_state + index * matrix, s.now.G, keys, values, columns);
}

static int64_t floats_of(const ProjectedScan *scan, int64_t matrices) {
    int64_t K = padded(scan->keys), columns = padded(scan->values);
    return floats_of_span(scan) + 3 * columns + matrices * K * columns;
}

int NAME(projected_scan_forward)(const ProjectedScan *scan) {
    return for_all(&scan->loop, scan, floats_of(scan, 2), forward);
}

int NAME(projected_scan_backward)(const ProjectedScan *scan) {
    return for_all(&scan->loop, scan, floats_of(scan, 3 + scan->loop.interval), backward);
}
