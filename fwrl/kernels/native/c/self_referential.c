/* The self-referential weight matrix, one time after another, with the weights in cache:

       y, q, k, s = x S
       q, k, s = softmax(q), softmax(k), sigmoid(s)
       S <- S + k^T (s * (q - k) S)     each of the four strengths for its part of the columns

   In scratch, each part of the columns begins a whole vector. */

#include "parts.h"
#include "self_referential.h"
#include "softmax.h"

enum { TAIL = 4 };

/* One head of one stream. */
typedef struct {
    const SelfReferential *net;
    int64_t b, h;
    /* columns without gaps, a part of them in scratch, all of them there */
    int64_t values, columns, parts;
    /* where [B H K V] has this head; floats of the weights there and in scratch */
    int64_t index, matrix, filled;
} Head;

static Head head_of(const SelfReferential *net, int64_t b, int64_t h) {
    int64_t size = net->size, values = 3 * size + TAIL, parts = parts_of(size);
    int64_t matrix = size * values, index = (b * net->heads + h) * matrix;
    return (Head){net, b, h, values, whole(size), parts, index, matrix, whole(size) * parts};
}

/* Where [B T H .] has this time. */
INLINE int64_t place(const Head *head, int64_t t) {
    return (head->b * head->net->times + t) * head->net->heads + head->h;
}

INLINE int starts_at(const Head *head, int64_t t) {
    const uint8_t *starts = head->net->starts;
    return starts && starts[head->b * head->net->times + t];
}

/* Where [B H N K V] has the weights at the beginning of the interval of a time. */
INLINE float *kept_at(const Head *head, int64_t t) {
    const SelfReferential *net = head->net;
    int64_t count = (net->times + net->interval - 1) / net->interval;
    return net->kept + head->index * count + t / net->interval * head->matrix;
}

static void take_weights(float *to, const float *from, const Head *head) {
    for (int64_t k = 0; k < head->net->size; k++)
        spread(to + k * head->parts, from + k * head->values, head->net->size, TAIL);
}

static void give_weights(float *to, const float *from, const Head *head) {
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
    return head->net->fresh + head->h * head->matrix;
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
static void forward(const void *call, int64_t b, int64_t h, float *scratch) {
    const SelfReferential *net = call;
    Head here = head_of(net, b, h), *head = &here;
    int64_t size = net->size, columns = head->columns, parts = head->parts;
    float *S = scratch, *made = S + head->filled, *change = made + parts, *u = change + parts;
    float *unused = u + parts, *difference = unused + parts;
    float *query = made + columns, *key = query + columns, *strength = key + columns;
    take_weights(S, net->state + head->index, head);
    for (int64_t t = 0; t < net->times; t++) {
        int64_t row = place(head, t);
        const float *address = net->address + row * size;
        if (net->kept && t % net->interval == 0)
            give_weights(kept_at(head, t), S, head);
        if (starts_at(head, t))
            take_weights(S, fresh_of(head), head);
        read_all(made, address, S, size, parts);
        memcpy(net->output + row * size, made, size * sizeof(float));
        softmax(query, query, size);
        softmax(key, key, size);
        for (int i = 0; i < TAIL; i++)
            strength[i] = sigmoid(strength[i]);
        for (int64_t k = 0; k < size; k++)
            difference[k] = query[k] - key[k];
        read_all(change, difference, S, size, parts);
        if (net->made) {
            gather(net->made + row * head->values, made, size, TAIL);
            gather(net->change + row * head->values, change, size, TAIL);
        }
        scale(u, change, strength, head);
        write_all(unused, key, 1.0f, key, u, S, S, size, parts);
    }
    give_weights(net->end + head->index, S, head);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    /* the gradient of the weights; the fresh weights; those before the interval; after each time */
    float *G, *fresh, *before, *after;
    /* of all columns: what is written, the change, their gradients, that of what is made, zeros */
    float *u, *change, *to_u, *to_change, *to_made, *zeros;
    /* of all keys: the negative of what is read at, and gradients */
    float *minus, *to_key, *to_query;
} Scratch;

static Scratch lay_out(float *scratch, const Head *head) {
    Scratch s;
    float **rows[] = {&s.u, &s.change, &s.to_u, &s.to_change, &s.to_made, &s.zeros};
    float **keys[] = {&s.minus, &s.to_key, &s.to_query};
    enum { ROWS = sizeof rows / sizeof rows[0], KEYS = sizeof keys / sizeof keys[0] };
    s.G = scratch;
    s.fresh = s.G + head->filled;
    s.before = s.fresh + head->filled;
    s.after = s.before + head->filled;
    scratch = s.after + head->net->interval * head->filled;
    memset(scratch, 0, (ROWS * head->parts + KEYS * head->columns) * sizeof(float));
    for (int i = 0; i < ROWS; i++)
        *rows[i] = scratch + i * head->parts;
    for (int i = 0; i < KEYS; i++)
        *keys[i] = scratch + ROWS * head->parts + i * head->columns;
    return s;
}

/* The weights after each time from `first` on, but the last, once more. */
static void weights_again(const Head *head, int64_t first, int64_t last, const Scratch *s) {
    const SelfReferential *net = head->net;
    int64_t size = net->size;
    const float *T = s->before;
    float *after = s->after;
    for (int64_t t = first; t < last - 1; t++, after += head->filled) {
        int64_t row = place(head, t) * head->values;
        const float *key = net->made + row + 2 * size, *strength = key + size;
        spread(s->change, net->change + row, size, TAIL);
        scale(s->u, s->change, strength, head);
        if (starts_at(head, t))
            T = s->fresh;
        write_all(s->to_u, key, 1.0f, key, s->u, T, after, size, head->parts);
        T = after;
    }
}

/* The gradients of the four strengths before they are squashed. */
static void strengths_back(const Head *head, const float *strength, const Scratch *s) {
    float *to_strength = s->to_made + 3 * head->columns;
    for (int part = 0; part < TAIL; part++) {
        int64_t first = part * head->columns, count = part < 3 ? head->columns : WIDTH;
        float total = 0.0f;
#pragma omp simd reduction(+ : total)
        for (int64_t v = first; v < first + count; v++)
            total += s->change[v] * s->to_u[v];
        to_strength[part] = total * strength[part] * (1.0f - strength[part]);
    }
}

/* One time backwards: from the gradient of the weights after it to that of T, those before. */
static void back(const Head *head, int64_t t, const float *T, const Scratch *s) {
    const SelfReferential *net = head->net;
    int64_t size = net->size, columns = head->columns, parts = head->parts, row = place(head, t);
    const float *made = net->made + row * head->values, *address = net->address + row * size;
    const float *query = made + size, *key = query + size, *strength = key + size;
    spread(s->change, net->change + row * head->values, size, TAIL);
    scale(s->u, s->change, strength, head);
    read_all(s->to_u, key, s->G, size, parts);
    scale(s->to_change, s->to_u, strength, head);
    for (int64_t k = 0; k < size; k++)
        s->minus[k] = key[k] - query[k];
    /* to_key <- G u - T to_change, to_query <- T to_change, G <- G + (q - k)^T to_change */
    all_rows_back(s->to_key, s->to_query, s->G, T, s->u, s->to_change, s->to_change, s->minus, 1.0f,
                  size, parts);
    memcpy(s->to_made, net->from_output + row * size, size * sizeof(float));
    softmax_back(s->to_made + columns, query, s->to_query, size);
    softmax_back(s->to_made + 2 * columns, key, s->to_key, size);
    strengths_back(head, strength, s);
    for (int64_t k = 0; k < size; k++)
        s->minus[k] = -address[k];
    /* to_query <- T to_made, G <- G + x^T to_made */
    all_rows_back(s->to_key, s->to_query, s->G, T, s->zeros, s->to_made, s->to_made, s->minus, 1.0f,
                  size, parts);
    memcpy(net->to_address + row * size, s->to_query, size * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, int64_t b, int64_t h, float *scratch) {
    const SelfReferential *net = call;
    Head here = head_of(net, b, h), *head = &here;
    Scratch s = lay_out(scratch, head);
    take_weights(s.G, net->from_end + head->index, head);
    if (net->fresh)
        take_weights(s.fresh, fresh_of(head), head);
    if (net->to_fresh)
        memset(net->to_fresh + head->index, 0, head->matrix * sizeof(float));
    for (int64_t last = net->times; last > 0;) {
        int64_t first = (last - 1) / net->interval * net->interval;
        take_weights(s.before, kept_at(head, first), head);
        weights_again(head, first, last, &s);
        for (int64_t t = last - 1; t >= first; t--) {
            const float *T = t > first ? s.after + (t - 1 - first) * head->filled : s.before;
            back(head, t, starts_at(head, t) ? s.fresh : T, &s);
            if (!starts_at(head, t))
                continue;
            if (net->to_fresh)
                add_weights(net->to_fresh + head->index, s.G, head);
            memset(s.G, 0, head->filled * sizeof(float));
        }
        last = first;
    }
    give_weights(net->to_state + head->index, s.G, head);
}

static int run(const SelfReferential *net, int64_t matrices, int64_t rows,
               void (*work)(const void *, int64_t, int64_t, float *)) {
    Head head = head_of(net, 0, 0);
    int64_t floats = matrices * head.filled + rows * head.parts + 3 * head.columns;
    return for_all(net, net->streams, net->heads, net->threads, floats, work);
}

int NAME(self_referential_forward)(const SelfReferential *net) { return run(net, 1, 4, forward); }

int NAME(self_referential_backward)(const SelfReferential *net) {
    return run(net, 3 + net->interval, 6, backward);
}
