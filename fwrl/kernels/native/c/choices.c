/* Random choices by the Gumbel-max trick: the largest of the log-probabilities plus Gumbel noise.

   This file is compiled once for each set of instructions (VARIANT), and dispatch.c chooses among
   them. */

#include "activations.h"
#include "calls.h"

enum { AT_ONCE = 64 };

/* The choice of one factor; the first of equal ones, or that of a NaN. */
static int64_t choice(const float *log_probs, const float *noise, int64_t count) {
    float scores[AT_ONCE], best = -INFINITY;
    int64_t chosen = 0;
    for (int64_t from = 0; from < count; from += AT_ONCE) {
        int64_t some = count - from < AT_ONCE ? count - from : AT_ONCE;
#pragma omp simd
        for (int64_t i = 0; i < some; i++) {
            /* minus the logarithm of exponential noise is Gumbel noise */
            float size = noise[from + i] > 1e-30f ? noise[from + i] : 1e-30f;
            scores[i] = log_probs[from + i] - logarithm(size);
        }
        for (int64_t i = 0; i < some; i++)
            if (scores[i] > best || (scores[i] != scores[i] && best == best)) {
                best = scores[i];
                chosen = from + i;
            }
    }
    return chosen;
}

int NAME(draw)(const Draw *call) {
    for (int64_t b = 0; b < call->streams; b++) {
        float total = 0.0f;
        for (int64_t a = b * call->factors; a < (b + 1) * call->factors; a++) {
            const float *log_probs = call->log_probs + a * call->choices;
            call->action[a] = choice(log_probs, call->noise + a * call->choices, call->choices);
            total += log_probs[call->action[a]];
        }
        call->log_prob[b] = total;
    }
    return 0;
}
