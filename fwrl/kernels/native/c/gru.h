/* What the GRU is given and fills; the same fields as `GRU` in ../library.py. All without gaps. */
#ifndef FWRL_GRU_H
#define FWRL_GRU_H

#include <stdint.h>

typedef struct {
    /* B T E */
    int64_t streams, times, size, threads;
    /* [B T 3E], [3E E], [3E]: the gates reset and keep, and the new, after one another */
    const float *projected, *recurrent, *bias;
    /* [B E] */
    const float *hidden;
    /* [B T]; null: none */
    const uint8_t *starts;
    /* [B T E] */
    float *output;
    /* [B T 4E]: reset, keep and new, squashed, and the part of the new that is reset; null if not
       wanted */
    float *gates;
    /* only in the backward pass: the gradients of output, of what was given, and [B T 3E] of what
       was made of the last output */
    const float *from_output;
    float *to_projected, *to_made, *to_hidden;
} GRU;

#endif
