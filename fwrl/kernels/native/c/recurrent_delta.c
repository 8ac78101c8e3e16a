/* The Recurrent Delta Net, one time after another, with the fast weights in cache:

       q, k, v, b = x + tanh(y) R    x: what the slow network makes of the input
       q, k = softmax(q), softmax(k)
       u = sigmoid(b) (v - k S)
       S <- S + k^T u
       y = q S

   An episode begins with zeros for S and y. */

#include "activations.h"
#include "parts.h"

/* One head of one stream. In scratch, each part of a projection begins a whole vector. */
typedef struct {
    const RecurrentDelta *net;
    Place at;
    /* the size padded, the sum of those of all parts, and P */
    int64_t columns, parts, row;
} Head;

/* The call, and the recurrent weights of all heads in the parts of scratch: [H K parts] forward,
   [H parts K] backward. */
typedef struct {
    const RecurrentDelta *net;
    float *weights;
} Work;

static Head head_of(const RecurrentDelta *net, Place at) {
    return (Head){net, at, padded(net->size), parts_of(net->size), 3 * net->size + 1};
}

/* One head of one stream. Scratch: a matrix, two projections and three rows. */
static void forward(const void *call, Place at, float *scratch) {
    const Work *work = call;
    const RecurrentDelta *net = work->net;
    Head head = head_of(net, at);
    int64_t size = net->size, columns = head.columns, matrix = size * size;
    float *S = scratch, *found = S + size * columns, *given = found + head.parts;
    float *y = given + head.parts, *tanh_y = y + columns, *u = tanh_y + columns;
    float *query = found, *key = query + columns, *value = key + columns, *beta = value + columns;
    pad_matrix(S, net->state + index_of(at) * matrix, size, size, columns);
    pad(y, net->last + index_of(at) * size, size, columns);
    for (int64_t t = 0; t < net->loop.times; t++) {
        if (is_checkpoint(at, net->checkpoints, t))
            unpad_matrix(checkpoint_of(at, net->checkpoints, t, matrix), S, size, size, columns);
        if (starts_at(at, t)) {
            memset(S, 0, size * columns * sizeof(float));
            memset(y, 0, columns * sizeof(float));
        }
        hyperbolic_tangents(tanh_y, y, size);
        read_all(found, tanh_y, work->weights + at.h * size * head.parts, size, head.parts);
        spread(given, net->projected + row_of(at, t) * head.row, size, 1);
        for (int64_t p = 0; p < head.parts; p++)
            found[p] += given[p];
        softmax(query, query, size);
        softmax(key, key, size);
        beta[0] = sigmoid(beta[0]);
        read_all(u, key, S, size, columns);
        for (int64_t v = 0; v < columns; v++) {
            value[v] -= u[v];
            u[v] = beta[0] * value[v];
        }
        write_all(y, query, 1.0f, key, u, S, S, size, columns);
        memcpy(net->output + row_of(at, t) * size, y, size * sizeof(float));
        if (net->written)
            gather(net->written + row_of(at, t) * head.row, found, size, 1);
    }
    unpad_matrix(net->end + index_of(at) * matrix, S, size, size, columns);
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Write now;
    /* zeros; the weights before the interval; after each time */
    float *fresh, *before, *after;
    /* the gradients of the projection and of tanh(y), and tanh(y) */
    float *to_found, *to_tanh, *tanh_y;
} Scratch;

static Scratch scratch_of(float *scratch, const Head *head) {
    int64_t columns = head->columns, size = head->net->size;
    Scratch s = {{size, size, columns, 1, 1.0f}};
    float **projections[] = {&s.to_found};
    float **rows[] = {&s.now.error, &s.now.y,      &s.now.u,       &s.now.to_u,  &s.now.e,
                      &s.now.to_key, &s.now.to_query, &s.to_tanh, &s.tanh_y};
    float **matrices[] = {&s.now.G, &s.fresh, &s.before, &s.after};
    scratch = lay_out(projections, 1, scratch, head->parts);
    scratch = lay_out(rows, 9, scratch, columns);
    lay_out(matrices, 4, scratch, columns * columns);
    return s;
}

/* One time backward: from the gradients of the weights S after it and of what it read, to those of
   the weights and of what was read before it. */
static void back(const Head *head, int64_t t, const float *S, const float *weights, Scratch *s) {
    const RecurrentDelta *net = head->net;
    Write *w = &s->now;
    int64_t size = net->size, columns = head->columns, row = row_of(head->at, t);
    const float *found = net->written + row * head->row, *to_output = net->from_output + row * size;
    w->query = found, w->key = found + size, w->b = found[3 * size];
    memcpy(w->error, found + 2 * size, size * sizeof(float));
    for (int64_t v = 0; v < size; v++)
        w->y[v] += to_output[v];
    float to_beta = write_back(w);
    address_back(w, S);
    softmax_back(s->to_found, w->query, w->to_query, size);
    softmax_back(s->to_found + columns, w->key, w->to_key, size);
    /* e: the gradient of the error is that of the value */
    memcpy(s->to_found + 2 * columns, w->e, size * sizeof(float));
    s->to_found[3 * columns] = w->b * (1.0f - w->b) * to_beta;
    gather(net->to_projected + row * head->row, s->to_found, size, 1);
    if (starts_at(head->at, t)) {
        memset(w->G, 0, size * columns * sizeof(float));
        memset(w->y, 0, columns * sizeof(float));
        return;
    }
    const float *y = t ? net->output + row_of(head->at, t - 1) * size : net->last + index_of(head->at) * size;
    read_all(s->to_tanh, s->to_found, weights, 3 * columns + 1, columns);
    hyperbolic_tangents(s->tanh_y, y, size);
    for (int64_t v = 0; v < size; v++)
        w->y[v] = s->to_tanh[v] * (1.0f - s->tanh_y[v] * s->tanh_y[v]);
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, Place at, float *scratch) {
    const Work *work = call;
    const RecurrentDelta *net = work->net;
    Head head = head_of(net, at);
    int64_t size = net->size, columns = head.columns, matrix = size * size;
    Scratch s = scratch_of(scratch, &head);
    const float *found = net->written + row_of(at, 0) * head.row;
    int64_t stride = net->loop.heads * head.row;
    Writes writes = {{found + size, stride},
                     {found + 2 * size, stride},
                     {found + 3 * size, stride},
                     {NULL, 0},
                     starts_of(at)};
    pad_matrix(s.now.G, net->from_end + index_of(at) * matrix, size, size, columns);
    for (int64_t first, last = net->loop.times; last > 0; last = first) {
        first = interval_before(at, last);
        pad_matrix(s.before, checkpoint_of(at, net->checkpoints, first, matrix), size, size, columns);
        recompute(&writes, first, last, s.before, s.fresh, s.after, columns * columns, &s.now);
        for (int64_t t = last - 1; t >= first; t--)
            back(&head, t, s.after + (t - first) * columns * columns,
                 work->weights + at.h * head.parts * columns, &s);
    }
    unpad_matrix(net->to_state + index_of(at) * matrix, s.now.G, size, size, columns);
    memcpy(net->to_last + index_of(at) * size, s.now.y, size * sizeof(float));
}

static int run(const RecurrentDelta *net, int back, int64_t matrices) {
    Head head = head_of(net, (Place){0});
    int64_t size = net->size, columns = head.columns, parts = head.parts, row = head.row;
    Work work = {net, aligned_alloc(64, net->loop.heads * columns * parts * sizeof(float))};
    if (!work.weights)
        return 1;
    if (back)
        memset(work.weights, 0, net->loop.heads * columns * parts * sizeof(float));
    for (int64_t h = 0; h < net->loop.heads; h++)
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
    int failed = for_all(&net->loop, &work, floats, back ? backward : forward);
    free(work.weights);
    return failed;
}

int NAME(recurrent_delta_forward)(const RecurrentDelta *net) { return run(net, 0, 1); }

int NAME(recurrent_delta_backward)(const RecurrentDelta *net) { return run(net, 1, 3 + net->loop.interval); }
