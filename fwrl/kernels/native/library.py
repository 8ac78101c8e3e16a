"""The library of kernels in C: whether it is there, and how it is called."""

import ctypes
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fwrl.kernels.native.c.build import LIBRARY, digest

# Multiplications that are worth a second thread.
WORTH_A_THREAD = 100_000

FOLDER = Path(__file__).parent / "c"


class Library(NamedTuple):
    """The functions, if they are there, and what to say about it in one line."""

    functions: Any
    about: str


@cache
def library() -> Library:
    """What was built with the package."""
    path = FOLDER / LIBRARY
    if not path.exists():
        return Library(None, "not built, for want of a C compiler when fwrl was installed")
    try:
        functions = ctypes.CDLL(str(path))
    except OSError as error:
        return Library(None, f"cannot be loaded: {error}")
    for name in ("fwrl_sources", "fwrl_variant"):
        getattr(functions, name).restype = ctypes.c_char_p
    if functions.fwrl_sources().decode() != digest(FOLDER):
        return Library(None, "built from other sources; install fwrl once more")
    return Library(functions, f"built, for {functions.fwrl_variant().decode()} instructions")


class Sequence(ctypes.Structure):
    """``Sequence`` in c/scan.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((axis, ctypes.c_int64) for axis in ("stream", "time", "head")),
    )


class Scan(ctypes.Structure):
    """``Scan`` in c/scan.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("streams", "times", "heads", "keys", "values")),
        *((name, ctypes.c_int64) for name in ("removes", "interval", "fresh_streams", "threads")),
        ("projected", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("epsilon", "max_beta")),
        *((name, Sequence) for name in ("query", "key", "value")),
        *((name, ctypes.c_void_p) for name in ("beta", "decay", "state", "fresh", "starts")),
        *((name, ctypes.c_void_p) for name in ("output", "end", "error", "kept")),
        *((f"to_{name}", ctypes.c_void_p) for name in ("query", "key", "value")),
        *((f"to_{name}", ctypes.c_void_p) for name in ("beta", "decay", "state", "fresh")),
    )


class Recurrent(ctypes.Structure):
    """``Recurrent`` in c/recurrent.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("streams", "times", "heads", "size")),
        *((name, ctypes.c_int64) for name in ("interval", "threads")),
        *((name, ctypes.c_void_p) for name in ("projected", "recurrent", "state", "y", "starts")),
        *((name, ctypes.c_void_p) for name in ("output", "end", "made", "kept")),
        *((name, ctypes.c_void_p) for name in ("from_output", "from_end")),
        *((name, ctypes.c_void_p) for name in ("to_projected", "to_state", "to_y")),
    )


class FastRecurrence(ctypes.Structure):
    """``FastRecurrence`` in c/fast_recurrence.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("streams", "times", "heads", "size", "gates")),
        *((name, ctypes.c_int64) for name in ("interval", "threads")),
        *((name, ctypes.c_void_p) for name in ("read", "key", "value", "beta")),
        *((name, ctypes.c_void_p) for name in ("state", "y", "cell", "starts")),
        *((name, ctypes.c_void_p) for name in ("output", "end", "end_cell")),
        *((name, ctypes.c_void_p) for name in ("error", "made", "cells", "kept")),
        *((f"from_{name}", ctypes.c_void_p) for name in ("output", "end", "cell")),
        *((f"to_{name}", ctypes.c_void_p) for name in ("read", "key", "value", "beta")),
        *((f"to_{name}", ctypes.c_void_p) for name in ("state", "y", "cell")),
    )


class GRU(ctypes.Structure):
    """``GRU`` in c/gru.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("streams", "times", "size", "threads")),
        *((name, ctypes.c_void_p) for name in ("projected", "recurrent", "bias", "hidden")),
        *((name, ctypes.c_void_p) for name in ("starts", "output", "gates", "from_output")),
        *((name, ctypes.c_void_p) for name in ("to_projected", "to_made", "to_hidden")),
    )


class LSTM(ctypes.Structure):
    """``LSTM`` in c/lstm.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("streams", "times", "size", "threads")),
        ("forget_bias", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("projected", "recurrent", "hidden", "cell")),
        *((name, ctypes.c_void_p) for name in ("starts", "output", "end_cell", "gates", "cells")),
        *((name, ctypes.c_void_p) for name in ("from_output", "from_cell")),
        *((name, ctypes.c_void_p) for name in ("to_projected", "to_hidden", "to_cell")),
    )


class FastWeightMemory(ctypes.Structure):
    """``FastWeightMemory`` in c/fast_weight_memory.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("streams", "times", "size", "reads")),
        *((name, ctypes.c_int64) for name in ("interval", "threads")),
        *((name, ctypes.c_void_p) for name in ("triple", "beta", "path", "state", "starts")),
        *((name, ctypes.c_void_p) for name in ("output", "end")),
        *((name, ctypes.c_void_p) for name in ("error", "found", "scale", "kept")),
        *((name, ctypes.c_void_p) for name in ("from_output", "from_end")),
        *((f"to_{name}", ctypes.c_void_p) for name in ("triple", "beta", "path", "state")),
    )


class SelfReferential(ctypes.Structure):
    """``SelfReferential`` in c/self_referential.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("streams", "times", "heads", "size")),
        *((name, ctypes.c_int64) for name in ("interval", "threads")),
        *((name, ctypes.c_void_p) for name in ("address", "state", "fresh", "starts")),
        *((name, ctypes.c_void_p) for name in ("output", "end", "made", "change", "kept")),
        *((name, ctypes.c_void_p) for name in ("from_output", "from_end")),
        *((name, ctypes.c_void_p) for name in ("to_address", "to_state", "to_fresh")),
    )


class Features(ctypes.Structure):
    """``Features`` in c/features.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "size", "group", "stride", "threads")),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("input", "output", "to_input")),
    )


def place(sequence: Sequence, x: Tensor) -> Tensor:
    """Say where ``x`` [B T H size] lies; returns what must live as long as the call."""
    if x.stride(3) != 1:
        x = x.contiguous()
    sequence.data = x.data_ptr()
    sequence.stream, sequence.time, sequence.head, _ = x.stride()
    return x


def place_one(sequence: Sequence, x: Tensor) -> Tensor:
    """As ``place``, for the one time of ``x`` [B H size]."""
    if x.stride(2) != 1:
        x = x.contiguous()
    sequence.data = x.data_ptr()
    sequence.stream, sequence.head, _ = x.stride()
    return x


def fill(call: ctypes.Structure, names: Iterable[str], tensors: Iterable[Tensor | None]) -> None:
    """Say where tensors without gaps lie; None and empty ones are nowhere."""
    for name, x in zip(names, tensors, strict=True):
        setattr(call, name, None if x is None or not x.numel() else x.data_ptr())


def run(
    function: str,
    call: ctypes.Structure,
    *groups: tuple[Iterable[str], Iterable[Tensor | None]],
) -> None:
    """Call a function of the library with groups of names and tensors; results have no gaps.

    Raises:
        MemoryError: If it finds none for its scratch.
    """
    # what is copied for want of order must live as long as the call
    held = [(names, [None if x is None else x.contiguous() for x in xs]) for names, xs in groups]
    for names, tensors in held:
        fill(call, names, tensors)
    check(getattr(library().functions, function)(ctypes.byref(call)))


def served(*tensors: Tensor) -> bool:
    """Whether the library is there and such tensors are what it computes with."""
    fit = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    return fit and _there()


@torch.compiler.assume_constant_result
def _there() -> bool:
    return library().functions is not None


def check(failed: int) -> None:
    """What a scan returned."""
    if failed:
        raise MemoryError("the native scan found no memory for its scratch")


def threads_for(products: int) -> int:
    """How many threads so many multiplications are worth, of those that PyTorch may use."""
    return max(1, min(torch.get_num_threads(), products // WORTH_A_THREAD))
