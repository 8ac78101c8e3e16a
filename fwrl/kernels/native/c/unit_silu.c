/* Unit SiLU of many keys and queries, and its backward pass. */

#include "activations.h"
#include "calls.h"

INLINE const float *input_at(const UnitSilu *f, int64_t i) {
    return f->input + i / f->group * f->stride + i % f->group * f->size;
}

int NAME(unit_silu_forward)(const UnitSilu *f) {
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1) schedule(static)
    for (int64_t i = 0; i < f->count; i++)
        unit_silu(f->output + i * f->size, input_at(f, i), f->size, (float)f->epsilon);
    return 0;
}

/* With s the features and r = 1 / sqrt(|s|^2 + epsilon): to_s = r (to_y - r^2 s (s . to_y)). */
int NAME(unit_silu_backward)(const UnitSilu *f) {
#pragma omp parallel for num_threads(f->threads) if (f->threads > 1) schedule(static)
    for (int64_t i = 0; i < f->count; i++) {
        const float *x = input_at(f, i), *to_y = f->from_output + i * f->size;
        float *to_x = f->to_input + i * f->size, total = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : total, along)
        for (int64_t k = 0; k < f->size; k++) {
            float s = x[k] * sigmoid(x[k]);
            total += s * s;
            along += s * to_y[k];
        }
        float scale = 1.0f / sqrtf(total + (float)f->epsilon);
        along *= scale * scale;
#pragma omp simd
        for (int64_t k = 0; k < f->size; k++) {
            float part = sigmoid(x[k]);
            float slope = part * (1.0f + x[k] * (1.0f - part));
            to_x[k] = scale * slope * (to_y[k] - along * x[k] * part);
        }
    }
    return 0;
}
