/* The LSTM, one time after another:

       i, f, g, o = x + h R    x: what the slow weights make of the input
       c <- sigmoid(f + bias) c + sigmoid(i) tanh(g)
       h  = sigmoid(o) tanh(c)

   An episode begins with zeros for h and c. */

#include "groups.h"
#include "lstm.h"
#include "softmax.h"

enum { WRITE_GATE, KEEP, UPDATE, SHOW, GATES };

/* One time of one stream: from what is made of the last output to the next. */
static void cell_forward(const Group *g, int64_t i, int64_t t, float *cell) {
    const LSTM *net = g->work->call;
    int64_t size = net->size, row = place(g, i, t);
    const float *x = net->projected + row * GATES * size;
    float *made = g->to[i], *write = made + WRITE_GATE * size, *keep = made + KEEP * size;
    float *update = made + UPDATE * size, *show = made + SHOW * size;
    float *output = net->output + row * size, bias = (float)net->forget_bias;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        write[v] = sigmoid(write[v] + x[WRITE_GATE * size + v]);
        keep[v] = sigmoid(keep[v] + (x[KEEP * size + v] + bias));
        update[v] = tangent(update[v] + x[UPDATE * size + v]);
        show[v] = sigmoid(show[v] + x[SHOW * size + v]);
        cell[v] = keep[v] * cell[v] + write[v] * update[v];
        output[v] = show[v] * tangent(cell[v]);
    }
    if (net->gates)
        memcpy(net->gates + row * GATES * size, made, GATES * size * sizeof(float));
    if (net->cells)
        memcpy(net->cells + row * size, cell, size * sizeof(float));
}

static void forward(const void *work, int64_t n, int64_t unused, float *scratch) {
    (void)unused;
    Group group = group_of(work, n, scratch), *g = &group;
    const LSTM *net = g->work->call;
    int64_t size = net->size;
    memcpy(g->kept, net->cell + g->first * size, g->count * size * sizeof(float));
    forward_through(g, net->hidden, net->output, cell_forward);
    memcpy(net->end_cell + g->first * size, g->kept, g->count * size * sizeof(float));
}

/* One time of one stream backwards: from the gradients of h and c to those of the gates before they
   are squashed, and of c before. */
static void cell_back(const Group *g, int64_t i, int64_t t, float *to_cell) {
    const LSTM *net = g->work->call;
    int64_t size = net->size, row = place(g, i, t);
    const float *gates = net->gates + row * GATES * size, *cell = net->cells + row * size;
    const float *write = gates + WRITE_GATE * size, *keep = gates + KEEP * size;
    const float *update = gates + UPDATE * size, *show = gates + SHOW * size;
    const float *old = before(g, i, t, net->cell, net->cells);
    const float *to_output = net->from_output + row * size;
    const float *to_h = g->to[i];
    float *to_gates = net->to_projected + row * GATES * size;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        float to_y = to_h[v] + to_output[v], bent = tangent(cell[v]);
        float to_c = to_cell[v] + to_y * show[v] * (1.0f - bent * bent);
        to_gates[WRITE_GATE * size + v] = to_c * update[v] * write[v] * (1.0f - write[v]);
        to_gates[KEEP * size + v] = to_c * old[v] * keep[v] * (1.0f - keep[v]);
        to_gates[UPDATE * size + v] = to_c * write[v] * (1.0f - update[v] * update[v]);
        to_gates[SHOW * size + v] = to_y * bent * show[v] * (1.0f - show[v]);
        to_cell[v] = to_c * keep[v];
    }
}

static void backward(const void *work, int64_t n, int64_t unused, float *scratch) {
    (void)unused;
    Group group = group_of(work, n, scratch), *g = &group;
    const LSTM *net = g->work->call;
    int64_t size = net->size;
    memcpy(g->kept, net->from_cell + g->first * size, g->count * size * sizeof(float));
    back_through(g, net->to_projected, cell_back);
    for (int64_t i = 0; i < g->count; i++)
        memcpy(net->to_hidden + (g->first + i) * size, g->to[i], size * sizeof(float));
    memcpy(net->to_cell + g->first * size, g->kept, g->count * size * sizeof(float));
}

static Work work_of(const LSTM *net) {
    return (Work){net,          net->streams,   net->times,  net->size, GATES * net->size,
                  net->threads, net->recurrent, net->starts, 0,         0};
}

int NAME(lstm_forward)(const LSTM *net) { return run_groups(work_of(net), 0, forward); }

int NAME(lstm_backward)(const LSTM *net) { return run_groups(work_of(net), 1, backward); }
