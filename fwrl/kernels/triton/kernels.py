"""The two GPU kernels of ``scan``, in Triton's language: forward and backward.

Names: ``a`` decay, ``b`` beta, ``q, k, v, y`` query, key, value and what is read, ``s`` the fast
weights, ``e`` the error that is written, ``dx`` the gradient of ``x``; ``i, j`` rows and columns of
the fast weights, ``row`` the stream and its head, ``moment`` a stream's time, ``time`` a head's.
"""

# Triton does not read annotations other than its own, and is not there where types are checked
# ruff: noqa: ANN001, ANN201, ANN202
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _vector(pointer, time, i, SIZE: tl.constexpr):
    return tl.load(pointer + time * SIZE + i, mask=i < SIZE, other=0.0)


@triton.jit
@no_type_check
def _matrix(pointer, row, i, j, K: tl.constexpr, V: tl.constexpr):
    at = row * K * V + i[:, None] * V + j[None, :]
    return tl.load(pointer + at, mask=(i < K)[:, None] & (j < V)[None, :], other=0.0)


@triton.jit
@no_type_check
def _first(fresh, row, i, j, like, K: tl.constexpr, V: tl.constexpr, FRESH: tl.constexpr):
    """The state that an episode begins with: ``fresh``, or zeros shaped as another matrix."""
    s = tl.zeros_like(like)
    if FRESH:
        s = _matrix(fresh, row, i, j, K, V)
    return s


@triton.jit
@no_type_check
def _put(pointer, row, i, j, s, K: tl.constexpr, V: tl.constexpr):
    at = row * K * V + i[:, None] * V + j[None, :]
    tl.store(pointer + at, s, mask=(i < K)[:, None] & (j < V)[None, :])


@triton.jit
@no_type_check
def _error(
    s,
    write,
    time,
    i,
    j,
    K: tl.constexpr,
    V: tl.constexpr,
    REMOVES: tl.constexpr,
    SCALED: tl.constexpr,
    DECAYS: tl.constexpr,
):
    """The decayed state, and key, error, beta and decay of one time."""
    key, value, beta, decay = write
    k, e = _vector(key, time, i, K), _vector(value, time, j, V)
    a, b = 1.0, 1.0
    if DECAYS:
        a = tl.load(decay + time)
        s = s * a
    if REMOVES:
        e = e - tl.sum(k[:, None] * s, axis=0)
    if SCALED:
        b = tl.load(beta + time)
    return s, k, e, b, a


@triton.jit
@no_type_check
def forward(
    query,
    write,
    states,
    starts,
    values,
    end,
    kept,
    times,
    heads,
    shares,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    SPAN: tl.constexpr,
    REMOVES: tl.constexpr,
    SCALED: tl.constexpr,
    DECAYS: tl.constexpr,
    FRESH: tl.constexpr,
    KEEPS: tl.constexpr,
):
    """``y`` of all times and the last ``s``, of one stream, head and block of columns."""
    state, fresh = states
    row, spans = tl.program_id(0).to(tl.int64), tl.cdiv(times, SPAN)
    i, j = tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    s = _matrix(state, row, i, j, K, V)
    first = _first(fresh, row % shares, i, j, s, K, V, FRESH)
    for t in range(times):
        if KEEPS and t % SPAN == 0:
            _put(kept, row * spans + t // SPAN, i, j, s, K, V)
        moment = row // heads * times + t
        time = moment * heads + row % heads
        s = tl.where(tl.load(starts + moment) != 0, first, s)
        s, k, e, b, _ = _error(s, write, time, i, j, K, V, REMOVES, SCALED, DECAYS)
        s = s + k[:, None] * (e * b)[None, :]
        y = tl.sum(_vector(query, time, i, K)[:, None] * s, axis=0)
        tl.store(values + time * V + j, y, mask=j < V)
    _put(end, row, i, j, s, K, V)


@triton.jit
@no_type_check
def _again(
    s,
    first,
    write,
    starts,
    scratch,
    row,
    begin,
    until,
    times,
    heads,
    i,
    j,
    K: tl.constexpr,
    V: tl.constexpr,
    SPAN: tl.constexpr,
    REMOVES: tl.constexpr,
    SCALED: tl.constexpr,
    DECAYS: tl.constexpr,
):
    """Store the states that the writes of one span find in the scratch memory."""
    # all threads have read what stands there
    tl.debug_barrier()
    for t in range(begin, until):
        moment = row // heads * times + t
        time = moment * heads + row % heads
        s = tl.where(tl.load(starts + moment) != 0, first, s)
        _put(scratch, row * SPAN + t - begin, i, j, s, K, V)
        s, k, e, b, _ = _error(s, write, time, i, j, K, V, REMOVES, SCALED, DECAYS)
        s = s + k[:, None] * (e * b)[None, :]
    # and see what the others wrote
    tl.debug_barrier()


@triton.jit
@no_type_check
def _undo(
    ds,
    before,
    query,
    write,
    to_values,
    gradients,
    part,
    time,
    i,
    j,
    K: tl.constexpr,
    V: tl.constexpr,
    REMOVES: tl.constexpr,
    SCALED: tl.constexpr,
    DECAYS: tl.constexpr,
):
    """The gradients of one time: the lines of its forward pass, from the last to the first."""
    to_query, to_key, to_value, to_beta, to_decay = gradients
    q, dy = _vector(query, time, i, K), _vector(to_values, time, j, V)
    s, k, e, b, a = _error(before, write, time, i, j, K, V, REMOVES, SCALED, DECAYS)
    u = e * b
    dq = tl.sum((s + k[:, None] * u[None, :]) * dy[None, :], axis=1)
    ds = ds + q[:, None] * dy[None, :]
    dk = tl.sum(ds * u[None, :], axis=1)
    du = tl.sum(k[:, None] * ds, axis=0)
    de = du * b
    if REMOVES:
        dk = dk - tl.sum(s * de[None, :], axis=1)
        ds = ds - k[:, None] * de[None, :]
    if SCALED:
        tl.store(to_beta + part + time, tl.sum(e * du, axis=0))
    if DECAYS:
        tl.store(to_decay + part + time, tl.sum(tl.sum(ds * before, axis=1), axis=0))
        ds = ds * a
    tl.store(to_query + (part + time) * K + i, dq, mask=i < K)
    tl.store(to_key + (part + time) * K + i, dk, mask=i < K)
    tl.store(to_value + time * V + j, de, mask=j < V)
    return ds


@triton.jit
@no_type_check
def backward(
    query,
    write,
    fresh,
    starts,
    kept,
    scratch,
    to_outputs,
    gradients,
    to_states,
    times,
    heads,
    shares,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    SPAN: tl.constexpr,
    REMOVES: tl.constexpr,
    SCALED: tl.constexpr,
    DECAYS: tl.constexpr,
    FRESH: tl.constexpr,
):
    """The gradients of all that ``forward`` reads."""
    row, spans = tl.program_id(0).to(tl.int64), tl.cdiv(times, SPAN)
    # each block of columns stores its part of a sum over columns
    part = tl.program_id(1).to(tl.int64) * tl.num_programs(0) * times
    i, j = tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    ds = _matrix(to_outputs[1], row, i, j, K, V)
    dfirst, first = tl.zeros_like(ds), _first(fresh, row % shares, i, j, ds, K, V, FRESH)
    for rest in range(spans):
        span = spans - 1 - rest
        begin, until = span * SPAN, tl.minimum(span * SPAN + SPAN, times)
        s = _matrix(kept, row * spans + span, i, j, K, V)
        _again(
            s, first, write, starts, scratch, row, begin, until, times, heads, i, j,
            K, V, SPAN, REMOVES, SCALED, DECAYS,
        )  # fmt: skip
        for back in range(until - begin):
            moment = row // heads * times + until - 1 - back
            before = _matrix(scratch, row * SPAN + until - 1 - back - begin, i, j, K, V)
            ds = _undo(
                ds, before, query, write, to_outputs[0], gradients, part,
                moment * heads + row % heads, i, j, K, V, REMOVES, SCALED, DECAYS,
            )  # fmt: skip
            start = tl.load(starts + moment) != 0
            dfirst = tl.where(start, dfirst + ds, dfirst)
            ds = tl.where(start, 0.0, ds)
    _put(to_states[0], row, i, j, ds, K, V)
    _put(to_states[1], row, i, j, dfirst, K, V)
