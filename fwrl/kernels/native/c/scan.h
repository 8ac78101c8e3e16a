/* What a scan is given and what it fills; the same fields as `Scan` in ../native.py. */
#ifndef FWRL_SCAN_H
#define FWRL_SCAN_H

#include <stdint.h>

/* Numbers [streams, times, heads, size]; the last axis is without gaps, the strides are in floats. */
typedef struct {
    float *data;
    int64_t stream, time, head;
} Sequence;

typedef struct {
    /* B T H K V */
    int64_t streams, times, heads, keys, values;
    /* whether the error is written, not the value */
    int64_t removes;
    /* times between two states that are kept for the backward pass */
    int64_t interval;
    /* of the state that episodes begin with: 0 (zeros), 1 (for all), or as many as streams */
    int64_t fresh_streams;
    int64_t threads;
    /* one time only: whether query and key are projections, of which unit addresses are still to be
       made, and beta is what a sigmoid is still to be taken of */
    int64_t projected;
    double epsilon, max_beta;
    Sequence query, key, value;
    /* [B T H]; null: 1 everywhere */
    const float *beta, *decay;
    /* [B H K V] */
    const float *state, *fresh;
    /* [B T]; null: none */
    const uint8_t *starts;
    /* [B T H V], [B H K V]; in the backward pass their gradients */
    float *output, *end;
    /* [B T H V]: what was written, before beta; null if it is not wanted, or is the value */
    float *error;
    /* [B H N K V]: the states at every interval, before what starts there; null if not wanted */
    float *kept;
    /* only in the backward pass: all without gaps; null where there is no such input */
    float *to_query, *to_key, *to_value, *to_beta, *to_decay, *to_state;
    /* [B H K V], to be summed over the streams that share a fresh state */
    float *to_fresh;
} Scan;

#endif
