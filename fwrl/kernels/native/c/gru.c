/* The GRU, one time after another:

       r, z, u = h R + b, x: what the slow weights make of the input
       r <- sigmoid(r + x_r)
       z <- sigmoid(z + x_z)
       n  = tanh(x_n + r u)
       h <- n + z (h - n)

   An episode begins with zeros for h. */

#include "activations.h"
#include "groups.h"

/* The reset gate r, the update gate z, and the candidate n. */
enum { RESET, UPDATE, CANDIDATE, GATES };

/* One time of one stream: from the products with the last output to the next. */
static void cell_forward(const Group *g, int64_t i, int64_t t, float *unused) {
    (void)unused;
    const GRU *net = g->work->call;
    int64_t size = net->size, row = row_in(g, i, t);
    const float *x = net->projected + row * GATES * size, *bias = net->bias, *old = g->x[i];
    float *reset = g->to[i] + RESET * size, *update = g->to[i] + UPDATE * size;
    float *inner = g->to[i] + CANDIDATE * size, *output = net->output + row * size;
    float *gates = net->gates ? net->gates + row * GATES * size : 0;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        reset[v] = sigmoid(reset[v] + bias[RESET * size + v] + x[RESET * size + v]);
        update[v] = sigmoid(update[v] + bias[UPDATE * size + v] + x[UPDATE * size + v]);
        inner[v] += bias[CANDIDATE * size + v];
        float candidate = hyperbolic_tangent(x[CANDIDATE * size + v] + reset[v] * inner[v]);
        output[v] = candidate + update[v] * (old[v] - candidate);
        if (gates)
            gates[CANDIDATE * size + v] = candidate;
    }
    if (gates) {
        memcpy(gates + RESET * size, reset, size * sizeof(float));
        memcpy(gates + UPDATE * size, update, size * sizeof(float));
        memcpy(net->inner + row * size, inner, size * sizeof(float));
    }
}

static void forward(const void *work, Place at, float *scratch) {
    Group group = group_of(work, at.b, scratch), *g = &group;
    const GRU *net = g->work->call;
    forward_through(g, net->hidden, net->output, cell_forward);
}

/* One time of one stream backward: from the gradient of h, of which `kept` is the part that did not
   pass through the recurrent weights, to those of the gates before their nonlinearities. */
static void cell_back(const Group *g, int64_t i, int64_t t, float *kept) {
    const GRU *net = g->work->call;
    int64_t size = net->size, row = row_in(g, i, t);
    const float *gates = net->gates + row * GATES * size, *inner = net->inner + row * size;
    const float *reset = gates + RESET * size, *update = gates + UPDATE * size;
    const float *candidate = gates + CANDIDATE * size;
    const float *old = before(g, i, t, net->hidden, net->output);
    const float *to_output = net->from_output + row * size;
    const float *to_h = g->to[i];
    float *to_x = net->to_projected + row * GATES * size;
    float *to_product = net->to_recurrent_part + row * GATES * size;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        float to_y = to_h[v] + kept[v] + to_output[v];
        float to_candidate = to_y * (1.0f - update[v]) * (1.0f - candidate[v] * candidate[v]);
        float to_reset = to_candidate * inner[v] * reset[v] * (1.0f - reset[v]);
        float to_update = to_y * (old[v] - candidate[v]) * update[v] * (1.0f - update[v]);
        to_x[RESET * size + v] = to_product[RESET * size + v] = to_reset;
        to_x[UPDATE * size + v] = to_product[UPDATE * size + v] = to_update;
        to_x[CANDIDATE * size + v] = to_candidate;
        to_product[CANDIDATE * size + v] = to_candidate * reset[v];
        kept[v] = to_y * update[v];
    }
}

static void backward(const void *work, Place at, float *scratch) {
    Group group = group_of(work, at.b, scratch), *g = &group;
    const GRU *net = g->work->call;
    int64_t size = net->size;
    memset(g->kept, 0, g->count * size * sizeof(float));
    back_through(g, net->to_recurrent_part, cell_back);
    for (int64_t i = 0; i < g->count; i++)
        for (int64_t v = 0; v < size; v++)
            net->to_hidden[(g->first + i) * size + v] = g->to[i][v] + g->kept[i * size + v];
}

int NAME(gru_forward)(const GRU *net) {
    return run_groups(net, &net->loop, net->size, GATES * net->size, net->recurrent, 0, forward);
}

int NAME(gru_backward)(const GRU *net) {
    return run_groups(net, &net->loop, net->size, GATES * net->size, net->recurrent, 1, backward);
}
