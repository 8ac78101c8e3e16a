/* Vectors of three parts of one size and a few numbers more, each of which begins a whole vector in
   scratch: parts(size) floats there, 3 size + tail without gaps. */
#ifndef FWRL_PARTS_H
#define FWRL_PARTS_H

#include "heads.h"

INLINE int64_t parts_of(int64_t size) { return 3 * padded(size) + WIDTH; }

/* To scratch. */
INLINE void spread(float *to, const float *from, int64_t size, int64_t tail) {
    int64_t columns = padded(size);
    for (int part = 0; part < 3; part++)
        pad(to + part * columns, from + part * size, size, columns);
    pad(to + 3 * columns, from + 3 * size, tail, WIDTH);
}

/* From scratch. */
INLINE void gather(float *to, const float *from, int64_t size, int64_t tail) {
    int64_t columns = padded(size);
    for (int part = 0; part < 3; part++)
        memcpy(to + part * size, from + part * columns, size * sizeof(float));
    memcpy(to + 3 * size, from + 3 * columns, tail * sizeof(float));
}

#endif
