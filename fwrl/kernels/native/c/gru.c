/* The GRU, one time after another:

       r, z, u = h R + b, x: what the slow weights make of the input
       r <- sigmoid(r + x_r)
       z <- sigmoid(z + x_z)
       n  = tanh(x_n + r u)
       h <- n + z (h - n)

   An episode begins with zeros for h. */

#include "groups.h"
#include "gru.h"
#include "softmax.h"

/* What is made of the input and of the last output; one more is kept for the way back. */
enum { RESET, KEEP, NEW, MADE, INNER = MADE, GATES };

/* One time of one stream: from what is made of the last output to the next. */
static void cell_forward(const Group *g, int64_t i, int64_t t, float *unused) {
    (void)unused;
    const GRU *net = g->work->call;
    int64_t size = net->size, row = place(g, i, t);
    const float *x = net->projected + row * MADE * size, *bias = net->bias, *old = g->x[i];
    float *made = g->to[i], *reset = made + RESET * size, *keep = made + KEEP * size;
    float *inner = made + NEW * size, *output = net->output + row * size;
    float *gates = net->gates ? net->gates + row * GATES * size : 0;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        reset[v] = sigmoid(reset[v] + bias[RESET * size + v] + x[RESET * size + v]);
        keep[v] = sigmoid(keep[v] + bias[KEEP * size + v] + x[KEEP * size + v]);
        inner[v] += bias[NEW * size + v];
        float new = tangent(x[NEW * size + v] + reset[v] * inner[v]);
        output[v] = new + keep[v] * (old[v] - new);
        if (gates)
            gates[NEW * size + v] = new;
    }
    if (gates) {
        memcpy(gates + RESET * size, reset, size * sizeof(float));
        memcpy(gates + KEEP * size, keep, size * sizeof(float));
        memcpy(gates + INNER * size, inner, size * sizeof(float));
    }
}

static void forward(const void *work, int64_t n, int64_t unused, float *scratch) {
    (void)unused;
    Group group = group_of(work, n, scratch), *g = &group;
    const GRU *net = g->work->call;
    forward_through(g, net->hidden, net->output, cell_forward);
}

/* One time of one stream backwards: from the gradient of h, of which `kept` is the part that did
   not pass through the recurrent weights, to those of the gates before they are squashed. */
static void cell_back(const Group *g, int64_t i, int64_t t, float *kept) {
    const GRU *net = g->work->call;
    int64_t size = net->size, row = place(g, i, t);
    const float *gates = net->gates + row * GATES * size;
    const float *reset = gates + RESET * size, *keep = gates + KEEP * size;
    const float *new = gates + NEW * size, *inner = gates + INNER * size;
    const float *old = before(g, i, t, net->hidden, net->output);
    const float *to_output = net->from_output + row * size;
    const float *to_h = g->to[i];
    float *to_x = net->to_projected + row * MADE * size, *to_made = net->to_made + row * MADE * size;
#pragma omp simd
    for (int64_t v = 0; v < size; v++) {
        float to_y = to_h[v] + kept[v] + to_output[v];
        float to_new = to_y * (1.0f - keep[v]) * (1.0f - new[v] * new[v]);
        float to_reset = to_new * inner[v] * reset[v] * (1.0f - reset[v]);
        float to_keep = to_y * (old[v] - new[v]) * keep[v] * (1.0f - keep[v]);
        to_x[RESET * size + v] = to_made[RESET * size + v] = to_reset;
        to_x[KEEP * size + v] = to_made[KEEP * size + v] = to_keep;
        to_x[NEW * size + v] = to_new;
        to_made[NEW * size + v] = to_new * reset[v];
        kept[v] = to_y * keep[v];
    }
}

static void backward(const void *work, int64_t n, int64_t unused, float *scratch) {
    (void)unused;
    Group group = group_of(work, n, scratch), *g = &group;
    const GRU *net = g->work->call;
    int64_t size = net->size;
    memset(g->kept, 0, g->count * size * sizeof(float));
    back_through(g, net->to_made, cell_back);
    for (int64_t i = 0; i < g->count; i++)
        for (int64_t v = 0; v < size; v++)
            net->to_hidden[(g->first + i) * size + v] = g->to[i][v] + g->kept[i * size + v];
}

static Work work_of(const GRU *net) {
    return (Work){net,          net->streams,   net->times,  net->size, MADE * net->size,
                  net->threads, net->recurrent, net->starts, 0,         0};
}

int NAME(gru_forward)(const GRU *net) { return run_groups(work_of(net), 0, forward); }

int NAME(gru_backward)(const GRU *net) { return run_groups(work_of(net), 1, backward); }
