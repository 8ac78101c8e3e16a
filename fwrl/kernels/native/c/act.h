/* One time of fast weights, from the projections of one head of one stream on. */
#ifndef FWRL_ACT_H
#define FWRL_ACT_H

#include "activations.h"
#include "heads.h"

/* One time that starts nothing. */
typedef struct {
    int64_t keys, values;
    int64_t removes;
    float a, b;
    const float *query, *key, *value, *state;
    float *output, *end;
} Step;

/* Scratch: three rows, and a matrix for weights whose rows do not fill whole vectors. */
static void step(const Step *x, float *row, float *S) {
    int64_t keys = x->keys, values = x->values, columns = padded(values);
    float *error = row, *u = error + columns, *y = u + columns;
    const float *T = x->state;
    if (columns == values)
        S = x->end;
    else
        pad_matrix(S, T, keys, values, columns), T = S;
    memset(row, 0, 3 * columns * sizeof(float));
    if (x->removes)
        read_all(error, x->key, T, keys, columns);
    for (int64_t v = 0; v < values; v++)
        u[v] = x->b * (x->removes ? x->value[v] - x->a * error[v] : x->value[v]);
    write_all(y, x->query, x->a, x->key, u, T, S, keys, columns);
    memcpy(x->output, y, values * sizeof(float));
    if (S != x->end)
        unpad_matrix(x->end, S, keys, values, columns);
}

/* Scratch: three rows of values, two of keys, a matrix. */
static void act_head(const void *call, Place at, float *scratch) {
    const Act *act = call;
    int64_t keys = act->keys, values = act->values, index = index_of(at);
    float *query = scratch + 3 * padded(values), *key = query + padded(keys);
    const float *queries = act->projected + at.b * act->row, *projected = queries + at.h * keys;
    unit_silu(query, projected, keys, (float)act->epsilon);
    unit_silu(key, projected + at.heads * keys, keys, (float)act->epsilon);
    Step x = {keys, values, act->removes};
    x.a = act->decay ? act->decay[index] : 1.0f;
    x.b = act->logit ? (float)act->max_beta * sigmoid(act->logit[index]) : 1.0f;
    x.query = query, x.key = key, x.value = queries + 2 * at.heads * keys + at.h * values;
    x.state = act->state + index * keys * values, x.end = act->end + index * keys * values;
    x.output = act->output + index * values;
    step(&x, scratch, key + padded(keys));
}

/* Floats of the scratch of `act_head`. */
INLINE int64_t act_floats(int64_t keys, int64_t values) {
    return 3 * padded(values) + 2 * padded(keys) + keys * padded(values);
}

#endif
