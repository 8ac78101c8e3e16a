/* What the Delta RNN and the Delta LSTM are given and fill; the same fields as `FastRecurrence` in
   ../library.py. All without gaps. */
#ifndef FWRL_FAST_RECURRENCE_H
#define FWRL_FAST_RECURRENCE_H

#include <stdint.h>

typedef struct {
    /* B T H K; the gates are 1 (RNN) or 3 (LSTM): all heads of the first, then those of the next */
    int64_t streams, times, heads, size, gates;
    /* times between two states that are kept for the backward pass */
    int64_t interval, threads;
    /* [B T GH K]: what is added to what the recurrent weights read, and what is written there */
    const float *read, *key, *value;
    /* [B T GH] */
    const float *beta;
    /* [B GH K K]; [B H K]: the last output and, of the LSTM, the cells */
    const float *state, *y, *cell;
    /* [B T]; null: none */
    const uint8_t *starts;
    /* [B T H K], [B GH K K], [B H K] */
    float *output, *end, *end_cell;
    /* for the backward pass, null if not wanted. [B T GH K]: what was written before beta, and, of
       the LSTM, the gates; [B T H K]: its cells; [B GH N K K]: the states at every interval, before
       what starts there */
    float *error, *made, *cells, *kept;
    /* only in the backward pass: the gradients of what was filled, and of what was given */
    const float *from_output, *from_end, *from_cell;
    float *to_read, *to_key, *to_value, *to_beta, *to_state, *to_y, *to_cell;
} FastRecurrence;

#endif
