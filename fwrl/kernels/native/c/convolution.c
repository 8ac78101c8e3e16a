/* A causal depthwise convolution over the last times of an episode, and SiLU of some of its channels,
   forward and backward. A thread takes one stream through all times after another. */

#include "activations.h"
#include "heads.h"

/* The inputs of a time, or their gradients; those before the first are in `recent`. */
INLINE const float *at_time(const Convolution *f, Place at, int64_t t, const float *input,
                            const float *recent) {
    int64_t past = f->size - 1;
    return t < 0 ? recent + (at.b * past + past + t) * f->channels
                 : input + (at.b * at.loop->times + t) * f->row;
}

INLINE const float *input_at(const Convolution *f, Place at, int64_t t) {
    return at_time(f, at, t, f->input, f->recent);
}

INLINE float *to_input_at(const Convolution *f, Place at, int64_t t) {
    return (float *)at_time(f, at, t, f->to_input, f->to_recent);
}

/* How many earlier times of the episode a time sees, given how many the one before it did. */
INLINE int64_t seen_at(const Convolution *f, Place at, int64_t t, int64_t before) {
    return starts_at(at, t) ? 0 : before + 1 < f->size ? before + 1 : f->size - 1;
}

/* The convolution at a time, before SiLU. */
INLINE void convolve(float *sum, const Convolution *f, Place at, int64_t t, int64_t seen) {
    weigh(sum, f->weight, input_at(f, at, t), f->channels);
    for (int64_t age = 1; age <= seen; age++)
        add_weighed(sum, f->weight + age * f->channels, input_at(f, at, t - age), f->channels);
}

static void forward(const void *call, Place at, float *scratch) {
    const Convolution *f = call;
    int64_t past = f->size - 1, seen = past, times = at.loop->times;
    (void)scratch;
    for (int64_t t = 0; t < times; t++) {
        float *output = f->output + (at.b * times + t) * f->row;
        seen = seen_at(f, at, t, seen);
        convolve(output, f, at, t, seen);
        silu(output + f->silu_from, f->channels - f->silu_from);
        copy(output + f->channels, input_at(f, at, t) + f->channels, f->row - f->channels);
    }
    for (int64_t age = past; age > 0; age--) {
        float *end = f->end + (at.b * past + past - age) * f->channels;
        if (seen + 1 >= age)
            copy(end, input_at(f, at, times - age), f->channels);
        else
            memset(end, 0, f->channels * sizeof(float));
    }
}

/* The gradients of a time, whose sum before SiLU has the gradient `to_sum`. */
static void time_back(const Convolution *f, Place at, int64_t t, int64_t seen,
                      const float *to_sum) {
    float *to_weights = f->to_weights + at.b * f->size * f->channels;
    for (int64_t age = 0; age <= seen; age++) {
        int64_t place = age * f->channels;
        add_weighed(to_weights + place, to_sum, input_at(f, at, t - age), f->channels);
        add_weighed(to_input_at(f, at, t - age), to_sum, f->weight + place, f->channels);
    }
}

/* One stream. Scratch: the channels of two times. */
static void backward(const void *call, Place at, float *scratch) {
    const Convolution *f = call;
    int64_t past = f->size - 1, seen = past, times = at.loop->times, channels = f->channels;
    float *sum = scratch, *to_sum = scratch + channels;
    memset(f->to_weights + at.b * f->size * channels, 0, f->size * channels * sizeof(float));
    if (past)
        memset(f->to_recent + at.b * past * channels, 0, past * channels * sizeof(float));
    for (int64_t t = 0; t < times; t++) {
        const float *from_output = f->from_output + (at.b * times + t) * f->row;
        float *to_input = to_input_at(f, at, t);
        seen = seen_at(f, at, t, seen);
        memset(to_input, 0, channels * sizeof(float));
        copy(to_input + channels, from_output + channels, f->row - channels);
        copy(to_sum, from_output, channels);
        if (f->silu_from < channels)
            convolve(sum, f, at, t, seen);
#pragma omp simd
        for (int64_t c = f->silu_from; c < channels; c++) {
            float part = sigmoid(sum[c]);
            to_sum[c] *= part * (1.0f + sum[c] * (1.0f - part));
        }
        time_back(f, at, t, seen, to_sum);
    }
    for (int64_t age = past; age > 0; age--) {
        const float *from_end = f->from_end + (at.b * past + past - age) * channels;
        float *to_input = to_input_at(f, at, times - age);
        for (int64_t c = 0; seen + 1 >= age && c < channels; c++)
            to_input[c] += from_end[c];
    }
}

int NAME(convolution_forward)(const Convolution *f) { return for_all(&f->loop, f, 1, forward); }

int NAME(convolution_backward)(const Convolution *f) {
    return for_all(&f->loop, f, 2 * f->channels, backward);
}
