/* What the fast weight memory is given and fills; the same fields as `FastWeightMemory` in
   ../library.py. All without gaps. */
#ifndef FWRL_FAST_WEIGHT_MEMORY_H
#define FWRL_FAST_WEIGHT_MEMORY_H

#include <stdint.h>

typedef struct {
    /* B T V R; K = V V: a key is the product of two vectors */
    int64_t streams, times, size, reads;
    /* times between two states that are kept for the backward pass */
    int64_t interval, threads;
    /* [B T 3 V]: both parts of the key, and the value; [B T]: the strength; [B T R+1 V]: where the
       chain of reads begins, and the edges that it takes */
    const float *triple, *beta, *path;
    /* [B K V] */
    const float *state;
    /* [B T]; null: none */
    const uint8_t *starts;
    /* [B T V], [B K V] */
    float *output, *end;
    /* for the backward pass, null if not wanted. [B T V]: what was written before the strength;
       [B T R V]: what was read before it was normalised; [B T]: what the weights are scaled by
       after the write; [B N K V]: the weights at every interval, before they are scaled and before
       what starts there */
    float *error, *found, *scale, *kept;
    /* only in the backward pass: the gradients of output and end, and of what was given */
    const float *from_output, *from_end;
    float *to_triple, *to_beta, *to_path, *to_state;
} FastWeightMemory;

#endif
