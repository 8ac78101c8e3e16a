/* The LSTM, one time after another:

       i, f, g, o = x + h R    x: what the slow weights make of the input
       c <- sigmoid(f + bias) c + sigmoid(i) tanh(g)
       h  = sigmoid(o) tanh(c)

   An episode begins with zeros for h and c. */

#include "activations.h"
#include "groups.h"

/* The input, forget, cell and output gates i, f, g and o. */
enum { INPUT, FORGET, CELL, OUTPUT, GATES };

/* One time of one stream: from the products with the last output to the next. */
static void cell_forward(const Group *g, int64_t i, int64_t t, float *cell) {
    const LSTM *net = g->work->call;
    int64_t size = net->size, row = row_in(g, i, t);
    const float *x = net->projected + row * GATES * size;
    float *gates = g->to[i], *input = gates + INPUT * size, *forget = gates + FORGET * size;
    float *candidate = gates + CELL * size, *open = gates + OUTPUT * size;
    float *output = net->output + row * size, bias = (float)net->forget_bias;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        input[v] = sigmoid(input[v] + x[INPUT * size + v]);
        forget[v] = sigmoid(forget[v] + (x[FORGET * size + v] + bias));
        candidate[v] = hyperbolic_tangent(candidate[v] + x[CELL * size + v]);
        open[v] = sigmoid(open[v] + x[OUTPUT * size + v]);
        cell[v] = forget[v] * cell[v] + input[v] * candidate[v];
        output[v] = open[v] * hyperbolic_tangent(cell[v]);
    }
    if (net->gates)
        memcpy(net->gates + row * GATES * size, gates, GATES * size * sizeof(float));
    if (net->cells)
        memcpy(net->cells + row * size, cell, size * sizeof(float));
}

static void forward(const void *work, Place at, float *scratch) {
    Group group = group_of(work, at.b, scratch), *g = &group;
    const LSTM *net = g->work->call;
    int64_t size = net->size;
    memcpy(g->kept, net->cell + g->first * size, g->count * size * sizeof(float));
    forward_through(g, net->hidden, net->output, cell_forward);
    memcpy(net->end_cell + g->first * size, g->kept, g->count * size * sizeof(float));
}

/* One time of one stream backward: from the gradients of h and c to those of the gates before their
   nonlinearities, and of c before. */
static void cell_back(const Group *g, int64_t i, int64_t t, float *to_cell) {
    const LSTM *net = g->work->call;
    int64_t size = net->size, row = row_in(g, i, t);
    const float *gates = net->gates + row * GATES * size, *cell = net->cells + row * size;
    const float *input = gates + INPUT * size, *forget = gates + FORGET * size;
    const float *candidate = gates + CELL * size, *output = gates + OUTPUT * size;
    const float *old = before(g, i, t, net->cell, net->cells);
    const float *to_output = net->from_output + row * size;
    const float *to_h = g->to[i];
    float *to_gates = net->to_projected + row * GATES * size;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        float to_y = to_h[v] + to_output[v], tanh_c = hyperbolic_tangent(cell[v]);
        float to_c = to_cell[v] + to_y * output[v] * (1.0f - tanh_c * tanh_c);
        to_gates[INPUT * size + v] = to_c * candidate[v] * input[v] * (1.0f - input[v]);
        to_gates[FORGET * size + v] = to_c * old[v] * forget[v] * (1.0f - forget[v]);
        to_gates[CELL * size + v] = to_c * input[v] * (1.0f - candidate[v] * candidate[v]);
        to_gates[OUTPUT * size + v] = to_y * tanh_c * output[v] * (1.0f - output[v]);
        to_cell[v] = to_c * forget[v];
    }
}

static void backward(const void *work, Place at, float *scratch) {
    Group group = group_of(work, at.b, scratch), *g = &group;
    const LSTM *net = g->work->call;
    int64_t size = net->size;
    memcpy(g->kept, net->from_end_cell + g->first * size, g->count * size * sizeof(float));
    back_through(g, net->to_projected, cell_back);
    for (int64_t i = 0; i < g->count; i++)
        memcpy(net->to_hidden + (g->first + i) * size, g->to[i], size * sizeof(float));
    memcpy(net->to_cell + g->first * size, g->kept, g->count * size * sizeof(float));
}

int NAME(lstm_forward)(const LSTM *net) {
    return run_groups(net, &net->loop, net->size, GATES * net->size, net->recurrent, 0, forward);
}

int NAME(lstm_backward)(const LSTM *net) {
    return run_groups(net, &net->loop, net->size, GATES * net->size, net->recurrent, 1, backward);
}
