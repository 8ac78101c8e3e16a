/* Vectors of WIDTH floats, in the terms of GCC and Clang: no intrinsics, any processor. */
#ifndef FWRL_VECTORS_H
#define FWRL_VECTORS_H

#include <stdint.h>

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

/* Each variant of a function has a name of its own. */
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(name) JOIN(name, VARIANT)

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * WIDTH), may_alias));
/* the same anywhere in memory */
typedef float loose __attribute__((vector_size(4 * WIDTH), may_alias, aligned(4)));

INLINE vec load(const float *from) { return *(const loose *)from; }
INLINE void store(float *to, vec x) { *(loose *)to = x; }

#if WIDTH == 16
#define FIRST(a, b, size)                                                                          \
    (size == 8   ? __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21,  \
                                           22, 23)                                                 \
     : size == 4 ? __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, \
                                           26, 27)                                                 \
     : size == 2 ? __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, \
                                           28, 29)                                                 \
                 : __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24,    \
                                           26, 28, 30))
#define SECOND(a, b, size)                                                                         \
    (size == 8   ? __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, \
                                           29, 30, 31)                                             \
     : size == 4 ? __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28,   \
                                           29, 30, 31)                                             \
     : size == 2 ? __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26,   \
                                           27, 30, 31)                                             \
                 : __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25,    \
                                           27, 29, 31))
#elif WIDTH == 8
#define FIRST(a, b, size)                                                                          \
    (size == 4   ? __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11)                         \
     : size == 2 ? __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13)                         \
                 : __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14))
#define SECOND(a, b, size)                                                                         \
    (size == 4   ? __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15)                       \
     : size == 2 ? __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15)                       \
                 : __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15))
#else
#define FIRST(a, b, size)                                                                          \
    (size == 2 ? __builtin_shufflevector(a, b, 0, 1, 4, 5)                                         \
               : __builtin_shufflevector(a, b, 0, 2, 4, 6))
#define SECOND(a, b, size)                                                                         \
    (size == 2 ? __builtin_shufflevector(a, b, 2, 3, 6, 7)                                         \
               : __builtin_shufflevector(a, b, 1, 3, 5, 7))
#endif

/* The sums of WIDTH vectors, in one: pairs of vectors are folded into one until one is left. */
INLINE vec sums(vec *rows) {
#if WIDTH == 16
    for (int i = 0; i < 8; i++)
        rows[i] = FIRST(rows[2 * i], rows[2 * i + 1], 8) + SECOND(rows[2 * i], rows[2 * i + 1], 8);
#endif
#if WIDTH >= 8
    for (int i = 0; i < 4; i++)
        rows[i] = FIRST(rows[2 * i], rows[2 * i + 1], 4) + SECOND(rows[2 * i], rows[2 * i + 1], 4);
#endif
    for (int i = 0; i < 2; i++)
        rows[i] = FIRST(rows[2 * i], rows[2 * i + 1], 2) + SECOND(rows[2 * i], rows[2 * i + 1], 2);
    return FIRST(rows[0], rows[1], 1) + SECOND(rows[0], rows[1], 1);
}

INLINE float sum(vec x) {
    float total = 0.0f;
    for (int lane = 0; lane < WIDTH; lane++)
        total += x[lane];
    return total;
}

#endif
