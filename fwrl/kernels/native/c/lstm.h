/* What the LSTM is given and fills; the same fields as `LSTM` in ../library.py. All without
   gaps. */
#ifndef FWRL_LSTM_H
#define FWRL_LSTM_H

#include <stdint.h>

typedef struct {
    /* B T E */
    int64_t streams, times, size, threads;
    /* added to what opens the forget gate */
    double forget_bias;
    /* [B T 4E], [4E E]: the gates write, keep, update and show after one another */
    const float *projected, *recurrent;
    /* [B E] */
    const float *hidden, *cell;
    /* [B T]; null: none */
    const uint8_t *starts;
    /* [B T E], [B E] */
    float *output, *end_cell;
    /* [B T 4E]: the gates, squashed; [B T E]: the cells; null if not wanted */
    float *gates, *cells;
    /* only in the backward pass: the gradients of output and end, and of what was given */
    const float *from_output, *from_cell;
    float *to_projected, *to_hidden, *to_cell;
} LSTM;

#endif
