/* The Delta RNN (version 2) and the Delta LSTM (version 4), one time after another, with the fast
   weights of each gate in cache:

       S <- S + k^T b (v - k S)
       z  = x + softmax(y) S      x: what the feed-forward weights read

   of the only gate is y. The LSTM has three: i = sigmoid(z), u = z, o = sigmoid(z);

       c <- i u + (1 - i) c
       y  = o c

   An episode begins with zeros for S, y and c. */

#include "fast_recurrence.h"
#include "softmax.h"
#include "weights.h"

enum { WRITE_GATE, UPDATE, SHOW, GATES };

/* One head of one stream. */
typedef struct {
    const FastRecurrence *net;
    int64_t b, h;
    /* the size rounded up; floats of the weights of a gate, there and in scratch */
    int64_t columns, matrix, filled;
} Head;

static Head head_of(const FastRecurrence *net, int64_t b, int64_t h) {
    int64_t columns = whole(net->size);
    return (Head){net, b, h, columns, net->size * net->size, columns * columns};
}

/* Where [B GH .] has this gate, and [B T GH .] this gate at this time. */
INLINE int64_t index_of(const Head *head, int64_t gate) {
    return (head->b * head->net->gates + gate) * head->net->heads + head->h;
}

INLINE int64_t place(const Head *head, int64_t t, int64_t gate) {
    int64_t time = head->b * head->net->times + t;
    return (time * head->net->gates + gate) * head->net->heads + head->h;
}

/* Where [B H K] has this head, and [B T H K] this head at this time. */
INLINE int64_t unit_index(const Head *head) {
    return (head->b * head->net->heads + head->h) * head->net->size;
}

INLINE int64_t unit_place(const Head *head, int64_t t) {
    return ((head->b * head->net->times + t) * head->net->heads + head->h) * head->net->size;
}

INLINE const uint8_t *starts_of(const Head *head) {
    return head->net->starts ? head->net->starts + head->b * head->net->times : NULL;
}

/* Where [B GH N K K] has this gate's weights at the beginning of the interval of a time. */
INLINE float *kept_at(const Head *head, int64_t t, int64_t gate) {
    const FastRecurrence *net = head->net;
    int64_t count = (net->times + net->interval - 1) / net->interval;
    return net->kept + (index_of(head, gate) * count + t / net->interval) * head->matrix;
}

/* z <- x + query S of one gate, after the write. u: scratch. */
static void gate_forward(const Head *head, int64_t row, const float *query, float *S, float *u,
                         float *z) {
    const FastRecurrence *net = head->net;
    int64_t size = net->size, columns = head->columns;
    const float *key = net->key + row * size, *value = net->value + row * size;
    const float *read = net->read + row * size;
    read_all(u, key, S, size, columns);
    for (int64_t v = 0; v < size; v++)
        u[v] = value[v] - u[v];
    if (net->error)
        memcpy(net->error + row * size, u, size * sizeof(float));
    for (int64_t v = 0; v < size; v++)
        u[v] *= net->beta[row];
    write_all(z, query, 1.0f, key, u, S, S, size, columns);
    for (int64_t v = 0; v < size; v++)
        z[v] += read[v];
}

/* The gates are squashed where they lie. */
static void cell_forward(float *z, int64_t columns, float *cell, float *y, int64_t size) {
    float *write = z + WRITE_GATE * columns, *update = z + UPDATE * columns;
    float *show = z + SHOW * columns;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        write[v] = sigmoid(write[v]);
        show[v] = sigmoid(show[v]);
        cell[v] += write[v] * (update[v] - cell[v]);
        y[v] = show[v] * cell[v];
    }
}

/* One time: what it makes of y and the cell where they lie. */
static void advance(const Head *head, int64_t t, float *S, float *y, float *cell, float *row) {
    const FastRecurrence *net = head->net;
    int64_t size = net->size, columns = head->columns, unit = unit_place(head, t);
    float *query = row, *u = query + columns, *z = u + columns;
    softmax(query, y, size);
    for (int64_t gate = 0; gate < net->gates; gate++)
        gate_forward(head, place(head, t, gate), query, S + gate * head->filled, u,
                     z + gate * columns);
    if (net->gates == GATES) {
        cell_forward(z, columns, cell, y, size);
        for (int64_t gate = 0; net->made && gate < GATES; gate++)
            memcpy(net->made + place(head, t, gate) * size, z + gate * columns,
                   size * sizeof(float));
        if (net->cells)
            memcpy(net->cells + unit, cell, size * sizeof(float));
    } else {
        memcpy(y, z, size * sizeof(float));
    }
    memcpy(net->output + unit, y, size * sizeof(float));
}

/* One head of one stream. Scratch: a matrix for each gate, and seven rows. */
static void forward(const void *call, int64_t b, int64_t h, float *scratch) {
    const FastRecurrence *net = call;
    Head here = head_of(net, b, h), *head = &here;
    int64_t size = net->size, columns = head->columns;
    float *S = scratch, *y = S + net->gates * head->filled, *cell = y + columns;
    const uint8_t *starts = starts_of(head);
    memset(y, 0, 7 * columns * sizeof(float));
    memcpy(y, net->y + unit_index(head), size * sizeof(float));
    if (net->cell)
        memcpy(cell, net->cell + unit_index(head), size * sizeof(float));
    for (int64_t gate = 0; gate < net->gates; gate++)
        take_matrix(S + gate * head->filled, net->state + index_of(head, gate) * head->matrix, size,
                    size, columns);
    for (int64_t t = 0; t < net->times; t++) {
        for (int64_t gate = 0; net->kept && t % net->interval == 0 && gate < net->gates; gate++)
            give_matrix(kept_at(head, t, gate), S + gate * head->filled, size, size, columns);
        if (starts && starts[t])
            memset(S, 0, (net->gates * head->filled + 2 * columns) * sizeof(float));
        advance(head, t, S, y, cell, cell + columns);
    }
    for (int64_t gate = 0; gate < net->gates; gate++)
        give_matrix(net->end + index_of(head, gate) * head->matrix, S + gate * head->filled, size,
                    size, columns);
    if (net->cell)
        memcpy(net->end_cell + unit_index(head), cell, size * sizeof(float));
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Written now;
    /* zeros; of each gate the gradient of the weights; those before the interval; after each time */
    float *fresh, *G[GATES], *before, *after[GATES];
    /* the gradients of the gates before they are squashed, of y and of the cell; softmax(y) and its
       gradient */
    float *to_z, *to_y, *to_cell, *query, *to_query;
    Writes writes[GATES];
} Scratch;

static Scratch lay_out(float *scratch, const Head *head) {
    const FastRecurrence *net = head->net;
    int64_t columns = head->columns, size = net->size, stride = net->gates * net->heads;
    Scratch s = {{size, size, columns, 1, 1.0f}};
    float **rows[] = {&s.now.error,    &s.now.u, &s.now.to_u,  &s.now.e, &s.now.to_key,
                      &s.now.to_query, &s.to_y,  &s.to_cell, &s.query, &s.to_query};
    enum { ROWS = sizeof rows / sizeof rows[0] };
    s.fresh = scratch;
    s.before = s.fresh + head->filled;
    scratch = s.before + head->filled;
    for (int64_t gate = 0; gate < net->gates; gate++) {
        int64_t first = place(head, 0, gate);
        s.G[gate] = scratch;
        s.after[gate] = scratch + head->filled;
        scratch += (1 + net->interval) * head->filled;
        s.writes[gate] = (Writes){{net->key + first * size, stride * size},
                                  {net->error + first * size, stride * size},
                                  {net->beta + first, stride},
                                  {NULL, 0},
                                  starts_of(head)};
    }
    for (int i = 0; i < ROWS; i++)
        *rows[i] = scratch + i * columns;
    s.to_z = scratch + ROWS * columns;
    memset(s.fresh, 0, head->filled * sizeof(float));
    memset(scratch, 0, (ROWS + GATES) * columns * sizeof(float));
    return s;
}

/* One time of the cell backwards: from the gradients of y and c to those of the gates and of c
   before. */
static void cell_back(const Head *head, int64_t t, const float *before, const Scratch *s) {
    const FastRecurrence *net = head->net;
    int64_t size = net->size, columns = head->columns;
    const float *cell = net->cells + unit_place(head, t);
    const float *write = net->made + place(head, t, WRITE_GATE) * size;
    const float *update = net->made + place(head, t, UPDATE) * size;
    const float *show = net->made + place(head, t, SHOW) * size;
    float *to_write = s->to_z + WRITE_GATE * columns, *to_update = s->to_z + UPDATE * columns;
    float *to_show = s->to_z + SHOW * columns;
    for (int64_t v = 0; v < size; v++) {
        float to_c = s->to_cell[v] + s->to_y[v] * show[v];
        to_show[v] = s->to_y[v] * cell[v] * show[v] * (1.0f - show[v]);
        to_write[v] = to_c * (update[v] - before[v]) * write[v] * (1.0f - write[v]);
        to_update[v] = to_c * write[v];
        s->to_cell[v] = to_c * (1.0f - write[v]);
    }
}

/* One time of one gate backwards; adds to the gradient of the query. */
static void gate_back(const Head *head, int64_t t, int64_t gate, const float *S, Scratch *s) {
    const FastRecurrence *net = head->net;
    Written *w = &s->now;
    int64_t size = net->size, row = place(head, t, gate);
    w->G = s->G[gate], w->y = s->to_z + gate * head->columns;
    w->query = s->query, w->key = net->key + row * size, w->b = net->beta[row];
    memcpy(w->error, net->error + row * size, size * sizeof(float));
    net->to_beta[row] = written_back(w);
    address_back(w, S);
    memcpy(net->to_read + row * size, w->y, size * sizeof(float));
    memcpy(net->to_key + row * size, w->to_key, size * sizeof(float));
    /* e: the gradient of the error is that of the value */
    memcpy(net->to_value + row * size, w->e, size * sizeof(float));
    for (int64_t k = 0; k < size; k++)
        s->to_query[k] += w->to_query[k];
}

/* One time backwards: from the gradients of all that is after it to those of all before. */
static void back(const Head *head, int64_t t, int64_t first, Scratch *s) {
    const FastRecurrence *net = head->net;
    const uint8_t *starts = starts_of(head);
    int64_t size = net->size, columns = head->columns;
    const float *to_output = net->from_output + unit_place(head, t);
    const float *y = t ? net->output + unit_place(head, t - 1) : net->y + unit_index(head);
    int started = starts && starts[t];
    softmax(s->query, started ? s->fresh : y, size);
    for (int64_t v = 0; v < size; v++)
        s->to_y[v] += to_output[v];
    if (net->gates == GATES) {
        const float *cell = t ? net->cells + unit_place(head, t - 1) : net->cell + unit_index(head);
        cell_back(head, t, started ? s->fresh : cell, s);
    } else {
        memcpy(s->to_z, s->to_y, size * sizeof(float));
    }
    memset(s->to_query, 0, columns * sizeof(float));
    for (int64_t gate = 0; gate < net->gates; gate++)
        gate_back(head, t, gate, s->after[gate] + (t - first) * head->filled, s);
    softmax_back(s->to_y, s->query, s->to_query, size);
    if (!started)
        return;
    for (int64_t gate = 0; gate < net->gates; gate++)
        memset(s->G[gate], 0, head->filled * sizeof(float));
    memset(s->to_y, 0, columns * sizeof(float));
    memset(s->to_cell, 0, columns * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, int64_t b, int64_t h, float *scratch) {
    const FastRecurrence *net = call;
    Head here = head_of(net, b, h), *head = &here;
    int64_t size = net->size, columns = head->columns;
    Scratch s = lay_out(scratch, head);
    for (int64_t gate = 0; gate < net->gates; gate++)
        take_matrix(s.G[gate], net->from_end + index_of(head, gate) * head->matrix, size, size,
                    columns);
    if (net->cell)
        memcpy(s.to_cell, net->from_cell + unit_index(head), size * sizeof(float));
    for (int64_t last = net->times; last > 0;) {
        int64_t first = (last - 1) / net->interval * net->interval;
        for (int64_t gate = 0; gate < net->gates; gate++) {
            take_matrix(s.before, kept_at(head, first, gate), size, size, columns);
            again(&s.writes[gate], first, last, s.before, s.fresh, s.after[gate], head->filled,
                  &s.now);
        }
        for (int64_t t = last - 1; t >= first; t--)
            back(head, t, first, &s);
        last = first;
    }
    for (int64_t gate = 0; gate < net->gates; gate++)
        give_matrix(net->to_state + index_of(head, gate) * head->matrix, s.G[gate], size, size,
                    columns);
    memcpy(net->to_y + unit_index(head), s.to_y, size * sizeof(float));
    if (net->cell)
        memcpy(net->to_cell + unit_index(head), s.to_cell, size * sizeof(float));
}

static int run(const FastRecurrence *net, int64_t matrices, int64_t rows,
               void (*work)(const void *, int64_t, int64_t, float *)) {
    int64_t columns = whole(net->size), floats = matrices * columns * columns + rows * columns;
    return for_all(net, net->streams, net->heads, net->threads, floats, work);
}

int NAME(fast_recurrence_forward)(const FastRecurrence *net) {
    return run(net, net->gates, 7, forward);
}

int NAME(fast_recurrence_backward)(const FastRecurrence *net) {
    return run(net, 2 + net->gates * (1 + net->interval), 13, backward);
}
