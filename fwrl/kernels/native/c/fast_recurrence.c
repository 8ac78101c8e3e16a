/* The Delta RNN (version 2) and the Delta LSTM (version 4), one time after another, with the fast
   weights of each gate in cache:

       S <- S + k^T b (v - k S)
       z  = x + softmax(y) S      x: what the feed-forward weights read

   of the only gate is y. The LSTM has three: i = sigmoid(z), u = z, o = sigmoid(z);

       c <- i u + (1 - i) c
       y  = o c

   An episode begins with zeros for S, y and c. */

#include "activations.h"
#include "heads.h"

enum { INPUT, CELL, OUTPUT, GATES };

/* One head of one stream. */
typedef struct {
    const FastRecurrence *net;
    Place at;
    int64_t gates, size;
    /* the size padded; floats of the weights of a gate, there and in scratch */
    int64_t columns, matrix, padded;
} Head;

static Head head_of(const FastRecurrence *net, Place at) {
    int64_t size = net->size, columns = padded(size), gates = net->matrices / net->loop.heads;
    return (Head){net, at, gates, size, columns, size * size, columns * columns};
}

/* [B GH .] and [B T GH .] have all heads of the first gate, then those of the next. */
INLINE Place gate_of(const Head *head, int64_t gate) {
    Place at = head->at;
    return (Place){at.loop, at.b, gate * at.heads + at.h, head->net->matrices};
}

/* Where [B H K] has this head, and [B T H K] this head at this time. */
INLINE int64_t unit_index(const Head *head) { return index_of(head->at) * head->size; }

INLINE int64_t unit_row(const Head *head, int64_t t) { return row_of(head->at, t) * head->size; }

/* The matrices of all gates, to scratch and back: the state or the end, and gradients of them. */
static void pad_gates(float *S, const float *from, const Head *head) {
    for (int64_t gate = 0; gate < head->gates; gate++)
        pad_matrix(S + gate * head->padded, from + index_of(gate_of(head, gate)) * head->matrix,
                   head->size, head->size, head->columns);
}

static void unpad_gates(float *to, const float *S, const Head *head) {
    for (int64_t gate = 0; gate < head->gates; gate++)
        unpad_matrix(to + index_of(gate_of(head, gate)) * head->matrix, S + gate * head->padded,
                     head->size, head->size, head->columns);
}

/* z <- x + query S of one gate, after the write. u: scratch. */
static void gate_forward(const Head *head, int64_t row, const float *query, float *S, float *u,
                         float *z) {
    const FastRecurrence *net = head->net;
    int64_t size = head->size, columns = head->columns;
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

/* z: the gates before their nonlinearities, then after them. */
static void cell_forward(float *z, int64_t columns, float *cell, float *y, int64_t size) {
    float *input = z + INPUT * columns, *candidate = z + CELL * columns;
    float *output = z + OUTPUT * columns;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        input[v] = sigmoid(input[v]);
        output[v] = sigmoid(output[v]);
        cell[v] += input[v] * (candidate[v] - cell[v]);
        y[v] = output[v] * cell[v];
    }
}

/* One time: y and the cell of the time before are replaced by its own. */
static void advance(const Head *head, int64_t t, float *S, float *y, float *cell, float *row) {
    const FastRecurrence *net = head->net;
    int64_t size = head->size, columns = head->columns;
    float *query = row, *u = query + columns, *z = u + columns;
    softmax(query, y, size);
    for (int64_t gate = 0; gate < head->gates; gate++)
        gate_forward(head, row_of(gate_of(head, gate), t), query, S + gate * head->padded, u,
                     z + gate * columns);
    if (head->gates == GATES) {
        cell_forward(z, columns, cell, y, size);
        for (int64_t gate = 0; net->gates && gate < GATES; gate++)
            memcpy(net->gates + row_of(gate_of(head, gate), t) * size, z + gate * columns,
                   size * sizeof(float));
        if (net->cells)
            memcpy(net->cells + unit_row(head, t), cell, size * sizeof(float));
    } else {
        memcpy(y, z, size * sizeof(float));
    }
    memcpy(net->output + unit_row(head, t), y, size * sizeof(float));
}

/* One head of one stream. Scratch: a matrix for each gate, and seven rows. */
static void forward(const void *call, Place at, float *scratch) {
    const FastRecurrence *net = call;
    Head here = head_of(net, at), *head = &here;
    int64_t size = head->size, columns = head->columns;
    float *S = scratch, *y = S + head->gates * head->padded, *cell = y + columns;
    memset(y, 0, 7 * columns * sizeof(float));
    memcpy(y, net->last + unit_index(head), size * sizeof(float));
    if (net->cell)
        memcpy(cell, net->cell + unit_index(head), size * sizeof(float));
    pad_gates(S, net->state, head);
    for (int64_t t = 0; t < net->loop.times; t++) {
        if (is_checkpoint(at, net->checkpoints, t))
            for (int64_t gate = 0; gate < head->gates; gate++)
                unpad_matrix(checkpoint_of(gate_of(head, gate), net->checkpoints, t, head->matrix),
                             S + gate * head->padded, size, size, columns);
        if (starts_at(at, t))
            memset(S, 0, (head->gates * head->padded + 2 * columns) * sizeof(float));
        advance(head, t, S, y, cell, cell + columns);
    }
    unpad_gates(net->end, S, head);
    if (net->cell)
        memcpy(net->end_cell + unit_index(head), cell, size * sizeof(float));
}

/* The scratch of the backward pass of one head. */
typedef struct {
    Write now;
    /* zeros; the weights before the interval; of each gate the gradient of the weights, and the
       weights after each time of the interval */
    float *fresh, *before, *G, *after;
    /* the gradients of the gates before their nonlinearities, of y and of the cell; softmax(y) and
       its gradient */
    float *to_z, *to_y, *to_cell, *query, *to_query;
    Writes writes[GATES];
} Scratch;

static Scratch scratch_of(float *scratch, const Head *head) {
    const FastRecurrence *net = head->net;
    int64_t size = head->size, stride = net->matrices;
    Scratch s = {{size, size, head->columns, 1, 1.0f}};
    float **rows[] = {&s.now.error,    &s.now.u, &s.now.to_u, &s.now.e, &s.now.to_key,
                      &s.now.to_query, &s.to_y,  &s.to_cell,  &s.query, &s.to_query};
    float **gates[] = {&s.to_z}, **matrices[] = {&s.fresh, &s.before};
    scratch = lay_out(rows, 10, scratch, head->columns);
    scratch = lay_out(gates, 1, scratch, GATES * head->columns);
    s.G = lay_out(matrices, 2, scratch, head->padded);
    s.after = s.G + head->gates * head->padded;
    for (int64_t gate = 0; gate < head->gates; gate++) {
        int64_t row = row_of(gate_of(head, gate), 0);
        s.writes[gate] = (Writes){{net->key + row * size, stride * size},
                                  {net->error + row * size, stride * size},
                                  {net->beta + row, stride},
                                  {NULL, 0},
                                  starts_of(head->at)};
    }
    return s;
}

/* One time of the cell backward: from the gradients of y and c to those of the gates and of c
   before. */
static void cell_back(const Head *head, int64_t t, const float *before, const Scratch *s) {
    const FastRecurrence *net = head->net;
    int64_t size = head->size, columns = head->columns;
    const float *cell = net->cells + unit_row(head, t);
    const float *input = net->gates + row_of(gate_of(head, INPUT), t) * size;
    const float *candidate = net->gates + row_of(gate_of(head, CELL), t) * size;
    const float *output = net->gates + row_of(gate_of(head, OUTPUT), t) * size;
    float *to_input = s->to_z + INPUT * columns, *to_candidate = s->to_z + CELL * columns;
    float *to_output = s->to_z + OUTPUT * columns;
    for (int64_t v = 0; v < size; v++) {
        float to_c = s->to_cell[v] + s->to_y[v] * output[v];
        to_output[v] = s->to_y[v] * cell[v] * output[v] * (1.0f - output[v]);
        to_input[v] = to_c * (candidate[v] - before[v]) * input[v] * (1.0f - input[v]);
        to_candidate[v] = to_c * input[v];
        s->to_cell[v] = to_c * (1.0f - input[v]);
    }
}

/* One time of one gate backward; adds to the gradient of the query. */
static void gate_back(const Head *head, int64_t t, int64_t gate, const float *S, Scratch *s) {
    const FastRecurrence *net = head->net;
    Write *w = &s->now;
    int64_t size = head->size, row = row_of(gate_of(head, gate), t);
    w->G = s->G + gate * head->padded, w->y = s->to_z + gate * head->columns;
    w->query = s->query, w->key = net->key + row * size, w->b = net->beta[row];
    memcpy(w->error, net->error + row * size, size * sizeof(float));
    net->to_beta[row] = write_back(w);
    address_back(w, S);
    memcpy(net->to_read + row * size, w->y, size * sizeof(float));
    memcpy(net->to_key + row * size, w->to_key, size * sizeof(float));
    /* e: the gradient of the error is that of the value */
    memcpy(net->to_value + row * size, w->e, size * sizeof(float));
    for (int64_t k = 0; k < size; k++)
        s->to_query[k] += w->to_query[k];
}

/* One time backward: from the gradients of all that is after it to those of all before. */
static void back(const Head *head, int64_t t, int64_t first, Scratch *s) {
    const FastRecurrence *net = head->net;
    int64_t size = head->size, columns = head->columns;
    const float *to_output = net->from_output + unit_row(head, t);
    const float *y = t ? net->output + unit_row(head, t - 1) : net->last + unit_index(head);
    int started = starts_at(head->at, t);
    softmax(s->query, started ? s->fresh : y, size);
    for (int64_t v = 0; v < size; v++)
        s->to_y[v] += to_output[v];
    if (head->gates == GATES) {
        const float *cell = t ? net->cells + unit_row(head, t - 1) : net->cell + unit_index(head);
        cell_back(head, t, started ? s->fresh : cell, s);
    } else {
        memcpy(s->to_z, s->to_y, size * sizeof(float));
    }
    memset(s->to_query, 0, columns * sizeof(float));
    for (int64_t gate = 0; gate < head->gates; gate++)
        gate_back(head, t, gate,
                  s->after + (gate * net->loop.interval + t - first) * head->padded, s);
    softmax_back(s->to_y, s->query, s->to_query, size);
    if (!started)
        return;
    memset(s->G, 0, head->gates * head->padded * sizeof(float));
    memset(s->to_y, 0, columns * sizeof(float));
    memset(s->to_cell, 0, columns * sizeof(float));
}

/* One head of one stream, from the last interval to the first. */
static void backward(const void *call, Place at, float *scratch) {
    const FastRecurrence *net = call;
    Head here = head_of(net, at), *head = &here;
    int64_t size = head->size;
    Scratch s = scratch_of(scratch, head);
    pad_gates(s.G, net->from_end, head);
    if (net->cell)
        memcpy(s.to_cell, net->from_end_cell + unit_index(head), size * sizeof(float));
    for (int64_t first, last = net->loop.times; last > 0; last = first) {
        first = interval_before(at, last);
        for (int64_t gate = 0; gate < head->gates; gate++) {
            const float *from =
                checkpoint_of(gate_of(head, gate), net->checkpoints, first, head->matrix);
            pad_matrix(s.before, from, size, size, head->columns);
            recompute(&s.writes[gate], first, last, s.before, s.fresh,
                      s.after + gate * net->loop.interval * head->padded, head->padded, &s.now);
        }
        for (int64_t t = last - 1; t >= first; t--)
            back(head, t, first, &s);
    }
    unpad_gates(net->to_state, s.G, head);
    memcpy(net->to_last + unit_index(head), s.to_y, size * sizeof(float));
    if (net->cell)
        memcpy(net->to_cell + unit_index(head), s.to_cell, size * sizeof(float));
}

static int run(const FastRecurrence *net, int64_t matrices, int64_t rows,
               void (*work)(const void *, Place, float *)) {
    int64_t columns = padded(net->size), floats = matrices * columns * columns + rows * columns;
    return for_all(&net->loop, net, floats, work);
}

int NAME(fast_recurrence_forward)(const FastRecurrence *net) {
    return run(net, net->matrices / net->loop.heads, 7, forward);
}

int NAME(fast_recurrence_backward)(const FastRecurrence *net) {
    int64_t gates = net->matrices / net->loop.heads;
    return run(net, 2 + gates * (1 + net->loop.interval), 13, backward);
}
