/* What the Recurrent Delta Net is given and fills; the same fields as `Recurrent` in ../library.py.
   All without gaps. */
#ifndef FWRL_RECURRENT_H
#define FWRL_RECURRENT_H

#include <stdint.h>

typedef struct {
    /* B T H K; P = 3 K + 1: query, key, value, strength */
    int64_t streams, times, heads, size;
    /* times between two states that are kept for the backward pass */
    int64_t interval, threads;
    /* [B T H P], [H K P] */
    const float *projected, *recurrent;
    /* [B H K K], [B H K] */
    const float *state, *y;
    /* [B T]; null: none */
    const uint8_t *starts;
    /* [B T H K] */
    float *output;
    /* [B H K K] */
    float *end;
    /* [B T H P]: query, key, error (what was written before the strength) and strength; null if not
       wanted */
    float *made;
    /* [B H N K K]: the states at every interval, before what starts there; null if not wanted */
    float *kept;
    /* only in the backward pass: the gradients of output and end, and of what was given */
    const float *from_output, *from_end;
    float *to_projected, *to_state, *to_y;
} Recurrent;

#endif
