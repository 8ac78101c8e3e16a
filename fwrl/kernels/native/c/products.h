/* Products of many vectors with one matrix, which is read once for several of them. The matrix lies
   in panels of PANEL columns, filled up with zeros. */
#ifndef FWRL_PRODUCTS_H
#define FWRL_PRODUCTS_H

#include "weights.h"

enum { PANEL = 2 * WIDTH };

INLINE int64_t panels_of(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

/* Floats of a matrix in panels. */
INLINE int64_t packed_size(int64_t keys, int64_t columns) {
    return panels_of(columns) * keys * PANEL;
}

/* Matrix [keys columns], of which the next row begins `row` floats later and the next column
   `column` floats, to panels. */
static void pack(float *to, const float *from, int64_t keys, int64_t columns, int64_t row,
                 int64_t column) {
    for (int64_t first = 0; first < columns; first += PANEL)
        for (int64_t k = 0; k < keys; k++)
            for (int64_t i = first; i < first + PANEL; i++)
                *to++ = i < columns ? from[k * row + i * column] : 0.0f;
}

/* to[i] <- x[i] S for COUNT vectors, of one panel. Several sums at once hide how long one takes. */
#define PRODUCTS(COUNT, AT_ONCE)                                                                   \
    INLINE void products_##COUNT(float *const *to, const float *const *x, const float *S,          \
                                 int64_t keys, int64_t column) {                                   \
        vec parts[AT_ONCE][COUNT][2] = {{{{0}}}};                                                  \
        int64_t k = 0;                                                                             \
        for (; k + AT_ONCE <= keys; k += AT_ONCE)                                                  \
            for (int j = 0; j < AT_ONCE; j++) {                                                    \
                vec left = load(S + (k + j) * PANEL), right = load(S + (k + j) * PANEL + WIDTH);   \
                for (int i = 0; i < COUNT; i++) {                                                  \
                    parts[j][i][0] += x[i][k + j] * left;                                          \
                    parts[j][i][1] += x[i][k + j] * right;                                         \
                }                                                                                  \
            }                                                                                      \
        for (; k < keys; k++)                                                                      \
            for (int i = 0; i < COUNT; i++) {                                                      \
                parts[0][i][0] += x[i][k] * load(S + k * PANEL);                                   \
                parts[0][i][1] += x[i][k] * load(S + k * PANEL + WIDTH);                           \
            }                                                                                      \
        for (int i = 0; i < COUNT; i++) {                                                          \
            for (int j = 1; j < AT_ONCE; j++) {                                                    \
                parts[0][i][0] += parts[j][i][0];                                                  \
                parts[0][i][1] += parts[j][i][1];                                                  \
            }                                                                                      \
            store(to[i] + column, parts[0][i][0]);                                                 \
            store(to[i] + column + WIDTH, parts[0][i][1]);                                         \
        }                                                                                          \
    }
PRODUCTS(1, 4)
PRODUCTS(2, 2)
PRODUCTS(4, 1)
#if WIDTH == 16
/* where there are registers for so many sums */
PRODUCTS(8, 1)
#endif

/* to[i] <- x[i] S for all vectors; there must be room for whole panels. */
static void products(float *const *to, const float *const *x, int64_t count, const float *packed,
                     int64_t keys, int64_t columns) {
    for (int64_t n = 0; n < panels_of(columns); n++) {
        const float *S = packed + n * keys * PANEL;
        int64_t i = 0;
#if WIDTH == 16
        for (; i + 8 <= count; i += 8)
            products_8(to + i, x + i, S, keys, n * PANEL);
#endif
        for (; i + 4 <= count; i += 4)
            products_4(to + i, x + i, S, keys, n * PANEL);
        for (; i + 2 <= count; i += 2)
            products_2(to + i, x + i, S, keys, n * PANEL);
        if (i < count)
            products_1(to + i, x + i, S, keys, n * PANEL);
    }
}

#endif
