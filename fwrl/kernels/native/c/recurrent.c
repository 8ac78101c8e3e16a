/* The Recurrent Delta Net, one time after another, with the fast weights in cache:

       q, k, v, b = x + tanh(y) R    x: what the slow network makes of the input
       q, k = softmax(q), softmax(k)
       u = sigmoid(b) (v - k S)
       S <- S + k^T u
       y = q S

   An episode begins with zeros for S and y. */

#include "parts.h"
#include "recurrent.h"
#include "softmax.h"

/* One head of one stream. In scratch, each part of what is made begins a whole vector. */
typedef struct {
    const Recurrent *net;
    int64_t b, h;
    /* the size rounded up, the sum of those of all parts, and P */
    int64_t columns, parts, row;
    /* where [B H .] has this head */
    int64_t index;
} Head;

/* The call, and the recurrent weights of all heads in the parts of scratch: [H K parts] to make
   them, [H parts K] for the way back. */
typedef struct {
    const Recurrent *net;
    float *weights;
} Work;

static Head head_of(const Recurrent *net, int64_t b, int64_t h) {
    int64_t columns = whole(net->size);
    return (Head){net, b, h, columns, parts_of(net->size), 3 * net->size + 1, b * net->heads + h};
}

/* Where [B T H .] has this time. */
INLINE int64_t place(const Head *head, int64_t t) {
    return (head->b * head->net->times + t) * head->net->heads + head->h;
}

INLINE int starts_at(const Head *head, int64_t t) {
    const uint8_t *starts = head->net->starts;
    return starts && starts[head->b * head->net->times + t];
}

/* One head of one stream. Scratch: a matrix, what is made and its like, and three rows. */
static void forward(const void *call, int64_t b, int64_t h, float *scratch) {
    const Work *work = call;
    const Recurrent *net = work->net;
    Head head = head_of(net, b, h);
    int64_t size = net->size, columns = head.columns, matrix = size * size;
    int64_t kept = (net->times + net->interval - 1) / net->interval;
    float *S = scratch, *made = S + size * columns, *given = made + head.parts;
    float *y = given + head.parts, *bent = y + columns, *u = bent + columns;
    float *query = made, *key = query + columns, *value = key + columns, *beta = value + columns;
    take_matrix(S, net->state + head.index * matrix, size, size, columns);
    take(y, net->y + head.index * size, size, columns);
    for (int64_t t = 0; t < net->times; t++) {
        if (net->kept && t % net->interval == 0)
            give_matrix(net->kept + (head.index * kept + t / net->interval) * matrix, S, size, size,
                        columns);
        if (starts_at(&head, t)) {
            memset(S, 0, size * columns * sizeof(float));
            memset(y, 0, columns * sizeof(float));
        }
        hyperbolic_tangent(bent, y, size);
        read_all(made, bent, work->weights + h * size * head.parts, size, head.parts);
        spread(given, net->projected + place(&head, t) * head.row, size, 1);
        for (int64_t p = 0; p < head.parts; p++)
            made[p] += given[p];
        softmax(query, query, size);
        softmax(key, key, size);
        beta[0] = sigmoid(beta[0]);
        read_all(u, key, S, size, columns);
        for (int64_t v = 0; v < columns; v++) {
            value[v] -= u[v];
            u[v] = beta[0] * value[v];
        }
        write_all(y, query, 1.0f, key, u, S, S, size, columns);
        memcpy(net->output + place(&head, t) * size, y, size * sizeof(float));
        if (net->made)
            gather(net->made + place(&head, t) * head.row, made, size, 1);
    }
    give_matrix(net->end + head.index * matrix, S, size, size, columns);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Written now;
    /* zeros; the weights before the interval; after each time */
    float *fresh, *before, *after;
    /* the gradient of what is made before it is squashed, and that of tanh(y) and tanh(y) itself */
    float *to_made, *to_bent, *bent;
} Scratch;

static Scratch lay_out(float *scratch, const Head *head) {
    int64_t columns = head->columns, matrix = columns * columns, size = head->net->size;
    Scratch s = {{size, size, columns, 1, 1.0f}};
    float **rows[] = {&s.now.error, &s.now.y,      &s.now.u,   &s.now.to_u, &s.now.e,
                      &s.now.to_key, &s.now.to_query, &s.to_bent, &s.bent};
    enum { ROWS = sizeof rows / sizeof rows[0] };
    s.now.G = scratch;
    s.fresh = s.now.G + matrix;
    s.before = s.fresh + matrix;
    s.after = s.before + matrix;
    s.to_made = s.after + head->net->interval * matrix;
    for (int i = 0; i < ROWS; i++)
        *rows[i] = s.to_made + head->parts + i * columns;
    memset(s.fresh, 0, matrix * sizeof(float));
    memset(s.to_made, 0, (head->parts + ROWS * columns) * sizeof(float));
    return s;
}

/* One time backwards: from the gradients of the weights S after it and of what it read, to those of
   the weights and of what was read before it. */
static void back(const Head *head, int64_t t, const float *S, const float *weights, Scratch *s) {
    const Recurrent *net = head->net;
    Written *w = &s->now;
    int64_t size = net->size, columns = head->columns, row = place(head, t);
    const float *made = net->made + row * head->row, *to_output = net->from_output + row * size;
    w->query = made, w->key = made + size, w->b = made[3 * size];
    memcpy(w->error, made + 2 * size, size * sizeof(float));
    for (int64_t v = 0; v < size; v++)
        w->y[v] += to_output[v];
    float to_beta = written_back(w);
    address_back(w, S);
    softmax_back(s->to_made, w->query, w->to_query, size);
    softmax_back(s->to_made + columns, w->key, w->to_key, size);
    /* e: the gradient of the error is that of the value */
    memcpy(s->to_made + 2 * columns, w->e, size * sizeof(float));
    s->to_made[3 * columns] = w->b * (1.0f - w->b) * to_beta;
    gather(net->to_projected + row * head->row, s->to_made, size, 1);
    if (starts_at(head, t)) {
        memset(w->G, 0, size * columns * sizeof(float));
        memset(w->y, 0, columns * sizeof(float));
        return;
    }
    const float *y = t ? net->output + place(head, t - 1) * size : net->y + head->index * size;
    read_all(s->to_bent, s->to_made, weights, 3 * columns + 1, columns);
    hyperbolic_tangent(s->bent, y, size);
    for (int64_t v = 0; v < size; v++)
        w->y[v] = s->to_bent[v] * (1.0f - s->bent[v] * s->bent[v]);
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, int64_t b, int64_t h, float *scratch) {
    const Work *work = call;
    const Recurrent *net = work->net;
    Head head = head_of(net, b, h);
    int64_t size = net->size, columns = head.columns, matrix = size * size;
    int64_t count = (net->times + net->interval - 1) / net->interval;
    Scratch s = lay_out(scratch, &head);
    const float *made = net->made + place(&head, 0) * head.row;
    int64_t stride = net->heads * head.row;
    Writes writes = {{made + size, stride},
                     {made + 2 * size, stride},
                     {made + 3 * size, stride},
                     {NULL, 0},
                     net->starts ? net->starts + b * net->times : NULL};
    take_matrix(s.now.G, net->from_end + head.index * matrix, size, size, columns);
    for (int64_t n = count - 1; n >= 0; n--) {
        int64_t first = n * net->interval, last = first + net->interval;
        last = last < net->times ? last : net->times;
        take_matrix(s.before, net->kept + (head.index * count + n) * matrix, size, size, columns);
        again(&writes, first, last, s.before, s.fresh, s.after, columns * columns, &s.now);
        for (int64_t t = last - 1; t >= first; t--)
            back(&head, t, s.after + (t - first) * columns * columns,
                 work->weights + h * head.parts * columns, &s);
    }
    give_matrix(net->to_state + head.index * matrix, s.now.G, size, size, columns);
    memcpy(net->to_y + head.index * size, s.now.y, size * sizeof(float));
}

static int run(const Recurrent *net, int back, int64_t matrices) {
    Head head = head_of(net, 0, 0);
    int64_t size = net->size, columns = head.columns, parts = head.parts, row = head.row;
    Work work = {net, aligned_alloc(64, net->heads * columns * parts * sizeof(float))};
    if (!work.weights)
        return 1;
    if (back)
        memset(work.weights, 0, net->heads * columns * parts * sizeof(float));
    for (int64_t h = 0; h < net->heads; h++)
        for (int64_t k = 0; k < size; k++) {
            const float *from = net->recurrent + (h * size + k) * row;
            if (!back)
                spread(work.weights + (h * size + k) * parts, from, size, 1);
            else
                for (int64_t p = 0; p < row; p++) {
                    int64_t part = p / size * columns + p % size;
                    work.weights[(h * parts + part) * columns + k] = from[p];
                }
        }
    int64_t floats = matrices * columns * columns + 2 * parts + 9 * columns;
    int failed = for_all(&work, net->streams, net->heads, net->threads, floats,
                         back ? backward : forward);
    free(work.weights);
    return failed;
}

int NAME(recurrent_forward)(const Recurrent *net) { return run(net, 0, 1); }

int NAME(recurrent_backward)(const Recurrent *net) { return run(net, 1, 3 + net->interval); }
