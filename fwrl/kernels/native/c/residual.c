/* One time of a residual stack of fast weights, with a linear map before it and linear maps of its
   output. A thread takes WIDTH streams through all layers.

   This file is compiled once for each set of instructions (VARIANT), and dispatch.c chooses among
   them. */

#include "act.h"
#include "lanes.h"

/* The kinds of `output_norm`. */
enum { NO_NORM, ROOT_MEAN_SQUARE, LAYER_NORM };

/* The streams of one thread, and its scratch. In lanes: the stream, and room for what a layer makes
   of it; in rows: projections, beta and decay, reads; what `act_head` needs. */
typedef struct {
    int64_t first, count;
    float *stream, *x, *y;
    float *projected, *logit, *decay, *read;
    float *act;
} Group;

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE int64_t projected_size(const Layer *layer) {
    return layer->heads * (2 * layer->keys + layer->values);
}

/* The largest of sizes over all layers. */
typedef struct {
    int64_t lane, projected, heads, read, act;
} Sizes;

static Sizes sizes_of(const Residual *call) {
    Sizes s = {larger(call->width, call->inputs)};
    for (int64_t i = 0; i < call->maps; i++)
        s.lane = larger(s.lane, call->map[i].outputs);
    for (int64_t i = 0; i < call->layers; i++) {
        const Layer *layer = call->layer + i;
        s.projected = larger(s.projected, projected_size(layer));
        s.heads = larger(s.heads, layer->heads);
        s.read = larger(s.read, layer->heads * layer->values);
        s.act = larger(s.act, act_floats(layer->keys, layer->values));
        s.lane = larger(s.lane, larger(layer->hidden, larger(s.projected, s.read)));
    }
    return s;
}

INLINE int64_t floats_of(Sizes s) {
    return WIDTH * (3 * s.lane + s.projected + 2 * padded(s.heads) + padded(s.read)) + s.act;
}

static Group group_of(const Residual *call, int64_t n, float *scratch) {
    Sizes s = sizes_of(call);
    int64_t rest = call->loop.streams - n * WIDTH;
    Group g = {n * WIDTH, rest < WIDTH ? rest : WIDTH, scratch};
    g.x = g.stream + WIDTH * s.lane;
    g.y = g.x + WIDTH * s.lane;
    g.logit = g.y + WIDTH * s.lane;
    g.decay = g.logit + WIDTH * padded(s.heads);
    g.read = g.decay + WIDTH * padded(s.heads);
    g.act = g.read + WIDTH * padded(s.read);
    g.projected = g.act + s.act;
    return g;
}

/* exp(-rate softplus(x + bias)) for every head. */
static void decay_lanes(float *x, const Layer *layer) {
    for (int64_t h = 0; h < layer->heads; h++) {
        float rate = expf(layer->log_rate[h]);
        for (int64_t i = h * WIDTH; i < (h + 1) * WIDTH; i++) {
            float step = x[i] + layer->step_bias[h];
            x[i] = expf(-rate * (step > 20.0f ? step : log1pf(expf(step))));
        }
    }
}

/* What a layer remembers, before and after the time. */
typedef struct {
    const float *state, *recent;
    float *end, *recent_end;
} Memory;

/* The projections of every stream mixed with those of the times before, and SiLU of the values; in y
   is room for one stream. `recent_end` may be `recent`. */
static void convolve(const Layer *layer, const Group *g, Memory memory) {
    int64_t row = projected_size(layer), past = layer->convolution - 1;
    int64_t values_at = 2 * layer->heads * layer->keys;
    for (int64_t i = 0; i < g->count; i++) {
        const float *recent = memory.recent + (g->first + i) * past * row;
        float *end = memory.recent_end + (g->first + i) * past * row;
        float *now = g->projected + i * row, *sum = g->y;
        weigh(sum, layer->mix, now, row);
        for (int64_t age = 1; age <= past; age++)
            add_weighed(sum, layer->mix + age * row, recent + (past - age) * row, row);
        if (past) {
            memmove(end, recent + row, (past - 1) * row * sizeof(float));
            memcpy(end + (past - 1) * row, now, row * sizeof(float));
        }
        memcpy(now, sum, row * sizeof(float));
        silu(now + values_at, row - values_at);
    }
}

/* What the heads read after they wrote: from x to y. */
static void fast_weights(const Layer *layer, const Group *g, Memory memory) {
    int64_t heads = layer->heads, width = layer->width, row = projected_size(layer);
    int64_t size = heads * layer->values, matrix = heads * layer->keys * layer->values;
    Loop one = {g->count, 1, heads};
    Act act = {one, layer->keys, layer->values, row, layer->removes};
    act.epsilon = layer->address_epsilon, act.max_beta = layer->max_beta;
    act.projected = g->projected, act.output = g->read;
    act.state = memory.state + g->first * matrix, act.end = memory.end + g->first * matrix;
    linear(g->y, g->x, (Linear){layer->project, NULL, width, row});
    from_lanes(g->projected, g->y, row, g->count, row);
    if (layer->convolution)
        convolve(layer, g, memory);
    if (layer->beta) {
        linear(g->y, g->x, (Linear){layer->beta, layer->beta_bias, width, heads});
        from_lanes(g->logit, g->y, heads, g->count, heads);
        act.logit = g->logit;
    }
    if (layer->step) {
        linear(g->y, g->x, (Linear){layer->step, NULL, width, heads});
        decay_lanes(g->y, layer);
        from_lanes(g->decay, g->y, heads, g->count, heads);
        act.decay = g->decay;
    }
    for (int64_t i = 0; i < g->count; i++)
        for (int64_t h = 0; h < heads; h++)
            act_head(&act, (Place){&act.loop, i, h, heads}, g->act);
    to_lanes(g->y, g->read, size, g->count, size);
}

/* The stream after a layer. */
static void through(const Layer *layer, const Group *g, Memory memory) {
    int64_t width = layer->width, values = layer->values, size = layer->heads * values;
    Norm first = {layer->core_scale, layer->core_shift, width, 1, (float)layer->core_epsilon};
    Norm second = {layer->scale, layer->shift, width, 1, (float)layer->epsilon};
    Norm head = {layer->output_scale, NULL, values, layer->output_norm == LAYER_NORM,
                 (float)layer->output_epsilon};
    normalise(g->x, g->stream, first);
    fast_weights(layer, g, memory);
    if (layer->output_norm != NO_NORM)
        for (int64_t h = 0; h < layer->heads; h++)
            normalise(g->y + h * values * WIDTH, g->y + h * values * WIDTH, head);
    linear(g->x, g->y, (Linear){layer->output, NULL, size, width});
    add_lanes(g->stream, g->x, width);
    normalise(g->x, g->stream, second);
    linear(g->y, g->x, (Linear){layer->widen, layer->widen_bias, width, layer->hidden});
    gelu_lanes(g->y, layer->hidden);
    linear(g->x, g->y, (Linear){layer->narrow, layer->narrow_bias, layer->hidden, width});
    add_lanes(g->stream, g->x, width);
}

static void group_through(const void *given, Place at, float *scratch) {
    const Residual *call = given;
    Group g = group_of(call, at.b, scratch);
    int64_t width = call->width, inputs = call->inputs;
    to_lanes(call->before ? g.x : g.stream, call->input + g.first * inputs, inputs, g.count, inputs);
    if (call->before)
        linear(g.stream, g.x, (Linear){call->before, call->before_bias, inputs, width});
    for (int64_t i = 0; i < call->layers; i++)
        through(call->layer + i, &g, (Memory){call->states[i], call->recents[i], call->ends[i],
                                              call->recent_ends[i]});
    normalise(g.x, g.stream, (Norm){call->scale, call->shift, width, 1, (float)call->epsilon});
    if (!call->maps)
        from_lanes(call->outputs[0] + g.first * width, g.x, width, g.count, width);
    for (int64_t i = 0; i < call->maps; i++) {
        int64_t size = call->map[i].outputs;
        linear(g.y, g.x, (Linear){call->map[i].weight, call->map[i].bias, width, size});
        from_lanes(call->outputs[i] + g.first * size, g.y, size, g.count, size);
    }
}

int NAME(residual)(const Residual *call) {
    Loop groups = call->loop;
    groups.streams = (call->loop.streams + WIDTH - 1) / WIDTH;
    if (groups.threads > groups.streams)
        groups.threads = groups.streams;
    return for_all(&groups, call, floats_of(sizes_of(call)), group_through);
}
