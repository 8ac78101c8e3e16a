/* What the feature map is given and what it fills; the same fields as `Features` in ../native.py. */
#ifndef FWRL_FEATURES_H
#define FWRL_FEATURES_H

#include <stdint.h>

typedef struct {
    /* of so many vectors, each of so many numbers */
    int64_t count, size;
    /* vectors between two gaps, and floats from one such group to the next */
    int64_t group, stride;
    int64_t threads;
    /* added to the squared length */
    double epsilon;
    const float *input;
    /* without gaps; in the backward pass its gradient */
    float *output;
    /* only in the backward pass; without gaps */
    float *to_input;
} Features;

#endif
