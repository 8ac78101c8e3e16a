/* What the self-referential weight matrix is given and fills; the same fields as `SelfReferential`
   in ../library.py. All without gaps. */
#ifndef FWRL_SELF_REFERENTIAL_H
#define FWRL_SELF_REFERENTIAL_H

#include <stdint.h>

typedef struct {
    /* B T H K; V = 3 K + 4: output, query, key and four strengths */
    int64_t streams, times, heads, size;
    /* times between two states that are kept for the backward pass */
    int64_t interval, threads;
    /* [B T H K], [B H K V]; [H K V]: what episodes begin with */
    const float *address, *state, *fresh;
    /* [B T]; null: none */
    const uint8_t *starts;
    /* [B T H K], [B H K V] */
    float *output, *end;
    /* for the backward pass, null if not wanted. [B T H V]: what was made, squashed, and the
       difference that is written; [B H N K V]: the states at every interval, before what starts
       there */
    float *made, *change, *kept;
    /* only in the backward pass: the gradients of what was filled, and of what was given */
    const float *from_output, *from_end;
    float *to_address, *to_state;
    /* [B H K V], to be summed over the streams */
    float *to_fresh;
} SelfReferential;

#endif
