/* The LSTM, one time after another:

       i, f, g, o = x + h R    x: what the slow weights make of the input
       c <- sigmoid(f + bias) c + sigmoid(i) tanh(g)
       h  = sigmoid(o) tanh(c)

   An episode begins with zeros for h and c. The recurrent weights are too many for the nearest
   cache: a thread takes all its streams through a time together, and reads them once for many. */

#include "lstm.h"
#include "products.h"
#include "softmax.h"

enum { WRITE_GATE, KEEP, UPDATE, SHOW, GATES };

/* The call, the recurrent weights in panels, and how many streams are one thread's. */
typedef struct {
    const LSTM *net;
    float *weights;
    int64_t group;
} Work;

/* The streams of one thread, and its scratch: of each stream what is made of the last output (or
   the gradient of that), and its cells (or theirs). */
typedef struct {
    const LSTM *net;
    const float *weights;
    int64_t first, count, row;
    float *zeros, *made, *cells;
    /* for each stream: what is multiplied, and where the product goes */
    const float **x;
    float **to;
} Group;

/* Floats of pointers for so many streams, and of the rest of the scratch. */
INLINE int64_t floats_of_pointers(int64_t count) {
    return (int64_t)((2 * count * sizeof(float *) + 63) / 64 * 64 / sizeof(float));
}

/* Of one stream, what a product fills: the gates, or the gradient of the output. */
INLINE int64_t row_of(const LSTM *net) { return panels_of(GATES * net->size) * PANEL; }

INLINE int64_t floats_of(const LSTM *net, int64_t group) {
    return floats_of_pointers(group) + net->size + group * (row_of(net) + net->size);
}

static Group group_of(const Work *work, int64_t n, float *scratch) {
    const LSTM *net = work->net;
    int64_t first = n * work->group, rest = net->streams - first;
    Group g = {net, work->weights, first, rest < work->group ? rest : work->group, row_of(net)};
    g.x = (const float **)scratch;
    g.to = (float **)scratch + work->group;
    g.zeros = scratch + floats_of_pointers(work->group);
    g.cells = g.zeros + net->size;
    g.made = g.cells + work->group * net->size;
    memset(g.zeros, 0, net->size * sizeof(float));
    for (int64_t i = 0; i < g.count; i++)
        g.to[i] = g.made + i * g.row;
    return g;
}

/* Where [B T .] has this time of a stream of the group. */
INLINE int64_t place(const Group *g, int64_t i, int64_t t) {
    return (g->first + i) * g->net->times + t;
}

INLINE int starts_at(const Group *g, int64_t i, int64_t t) {
    return g->net->starts && g->net->starts[place(g, i, t)];
}

/* What there was before a time: `first` [B E] before all of `later` [B T E]. */
INLINE const float *before(const Group *g, int64_t i, int64_t t, const float *first,
                           const float *later) {
    int64_t size = g->net->size;
    if (starts_at(g, i, t))
        return g->zeros;
    return t ? later + place(g, i, t - 1) * size : first + (g->first + i) * size;
}

/* One time of one stream: from what is made of the last output to the next. */
static void cell_forward(const Group *g, int64_t i, int64_t t, float *cell) {
    const LSTM *net = g->net;
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

static void forward(const void *call, int64_t n, int64_t unused, float *scratch) {
    (void)unused;
    Group group = group_of(call, n, scratch), *g = &group;
    const LSTM *net = g->net;
    int64_t size = net->size;
    memcpy(g->cells, net->cell + g->first * size, g->count * size * sizeof(float));
    for (int64_t t = 0; t < net->times; t++) {
        for (int64_t i = 0; i < g->count; i++) {
            g->x[i] = before(g, i, t, net->hidden, net->output);
            if (starts_at(g, i, t))
                memset(g->cells + i * size, 0, size * sizeof(float));
        }
        products(g->to, g->x, g->count, g->weights, size, GATES * size);
        for (int64_t i = 0; i < g->count; i++)
            cell_forward(g, i, t, g->cells + i * size);
    }
    memcpy(net->end_cell + g->first * size, g->cells, g->count * size * sizeof(float));
}

/* One time of one stream backwards: from the gradients of h and c to those of the gates before they
   are squashed, and of c before. */
static void cell_back(const Group *g, int64_t i, int64_t t, const float *to_h, float *to_cell) {
    const LSTM *net = g->net;
    int64_t size = net->size, row = place(g, i, t);
    const float *gates = net->gates + row * GATES * size, *cell = net->cells + row * size;
    const float *write = gates + WRITE_GATE * size, *keep = gates + KEEP * size;
    const float *update = gates + UPDATE * size, *show = gates + SHOW * size;
    const float *old = before(g, i, t, net->cell, net->cells);
    const float *to_output = net->from_output + row * size;
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

static void backward(const void *call, int64_t n, int64_t unused, float *scratch) {
    (void)unused;
    Group group = group_of(call, n, scratch), *g = &group;
    const LSTM *net = g->net;
    int64_t size = net->size;
    memcpy(g->cells, net->from_cell + g->first * size, g->count * size * sizeof(float));
    memset(g->made, 0, g->count * g->row * sizeof(float));
    for (int64_t t = net->times - 1; t >= 0; t--) {
        for (int64_t i = 0; i < g->count; i++) {
            cell_back(g, i, t, g->to[i], g->cells + i * size);
            g->x[i] = net->to_projected + place(g, i, t) * GATES * size;
        }
        products(g->to, g->x, g->count, g->weights, GATES * size, size);
        for (int64_t i = 0; i < g->count; i++)
            if (starts_at(g, i, t)) {
                memset(g->to[i], 0, size * sizeof(float));
                memset(g->cells + i * size, 0, size * sizeof(float));
            }
    }
    for (int64_t i = 0; i < g->count; i++)
        memcpy(net->to_hidden + (g->first + i) * size, g->to[i], size * sizeof(float));
    memcpy(net->to_cell + g->first * size, g->cells, g->count * size * sizeof(float));
}

/* The recurrent weights are [gates E]: read along the rows on the way back. */
static int run(const LSTM *net, int back) {
    int64_t size = net->size, gates = GATES * size;
    if (!net->streams)
        return 0;
    int64_t keys = back ? gates : size, columns = back ? size : gates;
    int64_t bytes = (packed_size(keys, columns) * sizeof(float) + 63) / 64 * 64;
    Work work = {net, aligned_alloc(64, bytes), (net->streams + net->threads - 1) / net->threads};
    if (!work.weights)
        return 1;
    pack(work.weights, net->recurrent, keys, columns, back ? size : 1, back ? 1 : size);
    int64_t groups = (net->streams + work.group - 1) / work.group;
    int failed = for_all(&work, groups, 1, net->threads, floats_of(net, work.group),
                         back ? backward : forward);
    free(work.weights);
    return failed;
}

int NAME(lstm_forward)(const LSTM *net) { return run(net, 0); }

int NAME(lstm_backward)(const LSTM *net) { return run(net, 1); }
