/* The self-referential weight matrix, one time after another, with the weights in cache:

       y, q, k, s = x S
       q, k, s = softmax(q), softmax(k), sigmoid(s)
       S <- S + k^T (s * (q - k) S)     each of the four strengths for its part of the columns

   In scratch, each part of the columns begins a whole vector. */

#include "activations.h"
#include "parts.h"

enum { TAIL = 4 };

/* One head of one stream. */
typedef struct {
    const SelfReferential *net;
    Place at;
    /* columns without gaps, a part of them in scratch, all of them there */
    int64_t values, columns, parts;
    /* where [B H K V] has this head; floats of the weights there and in scratch */
    int64_t index, matrix, padded;
} Head;

static Head head_of(const SelfReferential *net, Place at) {
    int64_t size = net->size, values = 3 * size + TAIL, parts = parts_of(size);
    int64_t matrix = size * values, columns = padded(size);
    return (Head){net, at, values, columns, parts, index_of(at) * matrix, matrix, columns * parts};
}

static void pad_weights(float *to, const float *from, const Head *head) {
    for (int64_t k = 0; k < head->net->size; k++)
        spread(to + k * head->parts, from + k * head->values, head->net->size, TAIL);
}

static void unpad_weights(float *to, const float *from, const Head *head) {
    for (int64_t k = 0; k < head->net->size; k++)
        gather(to + k * head->values, from + k * head->parts, head->net->size, TAIL);
}

static void add_weights(float *to, const float *from, const Head *head) {
    int64_t size = head->net->size;
    for (int64_t k = 0; k < size; k++)
        for (int64_t v = 0; v < head->values; v++) {
            int64_t part = v < 3 * size ? v / size : 3;
            to[k * head->values + v] += from[k * head->parts + part * head->columns + v - part * size];
        }
}

static const float *fresh_of(const Head *head) {
    return head->net->fresh + head->at.h * head->matrix;
}

/* Each part by its strength. */
INLINE void scale(float *to, const float *from, const float *strength, const Head *head) {
    for (int part = 0; part < TAIL; part++) {
        int64_t first = part * head->columns, count = part < 3 ? head->columns : WIDTH;
        for (int64_t v = first; v < first + count; v++)
            to[v] = strength[part] * from[v];
    }
}

/* One head of one stream. Scratch: a matrix, four rows of all columns, and one of the keys. */
static void forward(const void *call, Place at, float *scratch) {
    const SelfReferential *net = call;
    Head here = head_of(net, at), *head = &here;
    int64_t size = net->size, columns = head->columns, parts = head->parts;
    float *S = scratch, *found = S + head->padded, *change = found + parts, *u = change + parts;
    float *unused = u + parts, *difference = unused + parts;
    float *query = found + columns, *key = query + columns, *strength = key + columns;
    pad_weights(S, net->state + head->index, head);
    for (int64_t t = 0; t < net->loop.times; t++) {
        int64_t row = row_of(head->at, t);
        const float *address = net->address + row * size;
        if (is_checkpoint(at, net->checkpoints, t))
            unpad_weights(checkpoint_of(at, net->checkpoints, t, head->matrix), S, head);
        if (starts_at(at, t))
            pad_weights(S, fresh_of(head), head);
        read_all(found, address, S, size, parts);
        memcpy(net->output + row * size, found, size * sizeof(float));
        softmax(query, query, size);
        softmax(key, key, size);
        for (int i = 0; i < TAIL; i++)
            strength[i] = sigmoid(strength[i]);
        for (int64_t k = 0; k < size; k++)
            difference[k] = query[k] - key[k];
        read_all(change, difference, S, size, parts);
        if (net->columns) {
            gather(net->columns + row * head->values, found, size, TAIL);
            gather(net->change + row * head->values, change, size, TAIL);
        }
        scale(u, change, strength, head);
        write_all(unused, key, 1.0f, key, u, S, S, size, parts);
    }
    unpad_weights(net->end + head->index, S, head);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    /* the gradient of the weights; the fresh weights; those before the interval; after each time */
    float *G, *fresh, *before, *after;
    /* of all columns: what is written, the change, their gradients, that of what is found, zeros */
    float *u, *change, *to_u, *to_change, *to_found, *zeros;
    /* of all keys: the negative of what is read at, and gradients */
    float *minus, *to_key, *to_query;
} Scratch;

static Scratch scratch_of(float *scratch, const Head *head) {
    Scratch s;
    float **rows[] = {&s.u, &s.change, &s.to_u, &s.to_change, &s.to_found, &s.zeros};
    float **keys[] = {&s.minus, &s.to_key, &s.to_query};
    float **matrices[] = {&s.G, &s.fresh, &s.before, &s.after};
    scratch = lay_out(rows, 6, scratch, head->parts);
    scratch = lay_out(keys, 3, scratch, head->columns);
    lay_out(matrices, 4, scratch, head->padded);
    return s;
}

/* The weights after each time from `first` on, but the last, recomputed. */
static void recompute_weights(const Head *head, int64_t first, int64_t last, const Scratch *s) {
    const SelfReferential *net = head->net;
    int64_t size = net->size;
    const float *T = s->before;
    float *after = s->after;
    for (int64_t t = first; t < last - 1; t++, after += head->padded) {
        int64_t row = row_of(head->at, t) * head->values;
        const float *key = net->columns + row + 2 * size, *strength = key + size;
        spread(s->change, net->change + row, size, TAIL);
        scale(s->u, s->change, strength, head);
        if (starts_at(head->at, t))
            T = s->fresh;
        write_all(s->to_u, key, 1.0f, key, s->u, T, after, size, head->parts);
        T = after;
    }
}

/* The gradients of the four strengths before their sigmoid. */
static void strengths_back(const Head *head, const float *strength, const Scratch *s) {
    float *to_strength = s->to_found + 3 * head->columns;
    for (int part = 0; part < TAIL; part++) {
        int64_t first = part * head->columns, count = part < 3 ? head->columns : WIDTH;
        float total = 0.0f;
#pragma omp simd reduction(+ : total)
        for (int64_t v = first; v < first + count; v++)
            total += s->change[v] * s->to_u[v];
        to_strength[part] = total * strength[part] * (1.0f - strength[part]);
    }
}

/* One time backward: from the gradient of the weights after it to that of T, those before. */
static void back(const Head *head, int64_t t, const float *T, const Scratch *s) {
    const SelfReferential *net = head->net;
    int64_t size = net->size, columns = head->columns, parts = head->parts, row = row_of(head->at, t);
    const float *found = net->columns + row * head->values, *address = net->address + row * size;
    const float *query = found + size, *key = query + size, *strength = key + size;
    spread(s->change, net->change + row * head->values, size, TAIL);
    scale(s->u, s->change, strength, head);
    read_all(s->to_u, key, s->G, size, parts);
    scale(s->to_change, s->to_u, strength, head);
    for (int64_t k = 0; k < size; k++)
        s->minus[k] = key[k] - query[k];
    /* to_key <- G u - T to_change, to_query <- T to_change, G <- G + (q - k)^T to_change */
    all_rows_back(s->to_key, s->to_query, s->G, T, s->u, s->to_change, s->to_change, s->minus, 1.0f,
                  size, parts);
    memcpy(s->to_found, net->from_output + row * size, size * sizeof(float));
    softmax_back(s->to_found + columns, query, s->to_query, size);
    softmax_back(s->to_found + 2 * columns, key, s->to_key, size);
    strengths_back(head, strength, s);
    for (int64_t k = 0; k < size; k++)
        s->minus[k] = -address[k];
    /* to_query <- T to_found, G <- G + x^T to_found */
    all_rows_back(s->to_key, s->to_query, s->G, T, s->zeros, s->to_found, s->to_found, s->minus, 1.0f,
                  size, parts);
    memcpy(net->to_address + row * size, s->to_query, size * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, Place at, float *scratch) {
    const SelfReferential *net = call;
    Head here = head_of(net, at), *head = &here;
    Scratch s = scratch_of(scratch, head);
    pad_weights(s.G, net->from_end + head->index, head);
    if (net->fresh)
        pad_weights(s.fresh, fresh_of(head), head);
    if (net->to_fresh)
        memset(net->to_fresh + head->index, 0, head->matrix * sizeof(float));
    for (int64_t first, last = net->loop.times; last > 0; last = first) {
        first = interval_before(at, last);
        pad_weights(s.before, checkpoint_of(at, net->checkpoints, first, head->matrix), head);
        recompute_weights(head, first, last, &s);
        for (int64_t t = last - 1; t >= first; t--) {
            const float *T = t > first ? s.after + (t - 1 - first) * head->padded : s.before;
            back(head, t, starts_at(head->at, t) ? s.fresh : T, &s);
            if (!starts_at(head->at, t))
                continue;
            if (net->to_fresh)
                add_weights(net->to_fresh + head->index, s.G, head);
            memset(s.G, 0, head->padded * sizeof(float));
        }
    }
    unpad_weights(net->to_state + head->index, s.G, head);
}

static int run(const SelfReferential *net, int64_t matrices, int64_t rows,
               void (*work)(const void *, Place, float *)) {
    Head head = head_of(net, (Place){0});
    int64_t floats = matrices * head.padded + rows * head.parts + 3 * head.columns;
    return for_all(&net->loop, net, floats, work);
}

int NAME(self_referential_forward)(const SelfReferential *net) { return run(net, 1, 4, forward); }

int NAME(self_referential_backward)(const SelfReferential *net) {
    return run(net, 3 + net->loop.interval, 6, backward);
}
