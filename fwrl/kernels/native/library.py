"""The library of kernels in C: whether it is there, and how its functions are called."""

import ctypes
from collections.abc import Iterable, Mapping
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
    """The functions, or None where there are none, and one line that says why."""

    functions: Any
    about: str


@cache
def library() -> Library:
    """The library that was built with the package."""
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
    """Where numbers [B T H size] lie: ``Sequence`` in c/calls.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        *((axis, ctypes.c_int64) for axis in ("stream", "time", "head")),
    )


# The fields that every loop over time begins with: ``Loop`` in c/calls.h.
LOOP = {
    **dict.fromkeys(("streams", "times", "heads", "interval", "threads"), ctypes.c_int64),
    "starts": ctypes.c_void_p,
}


def structure(name: str, fields: Mapping[str, Any]) -> type[ctypes.Structure]:
    """The structure of this name in c/calls.h, with the types of its fields."""
    return type(name, (ctypes.Structure,), {"_fields_": tuple(fields.items())})


def place(sequence: Sequence, x: Tensor) -> Tensor:
    """Say where ``x`` [B T H size] or [B H size] lies; returns what must outlive the call."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    sequence.data = x.data_ptr()
    sequence.stream, *time, sequence.head, _ = x.stride()
    if time:
        sequence.time = time[0]
    return x


def fill(
    call: ctypes.Structure,
    held: list[Tensor],
    names: Iterable[str],
    values: Iterable[Tensor | bool | int | float | None],
) -> None:
    """Set fields by name: to numbers, and to where tensors lie; None and empty ones are null.

    ``held`` gets what must outlive the call: where a tensor has gaps, a copy without.
    """
    for name, x in zip(names, values, strict=True):
        if not isinstance(x, Tensor):
            setattr(call, name, x)
        elif x.numel():
            held.append(x.contiguous())
            setattr(call, name, held[-1].data_ptr())


def run(function: str, call: ctypes.Structure) -> None:
    """Call a function of the library.

    Raises:
        MemoryError: If it finds none for its scratch.
    """
    if getattr(library().functions, function)(ctypes.byref(call)):
        raise MemoryError(f"{function} found no memory for its scratch")


def served(*tensors: Tensor) -> bool:
    """Whether the library is there and such tensors are what it computes with."""
    fit = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    return fit and _there()


def _there() -> bool:
    return library().functions is not None


# as torch.compiler.assume_constant_result does, which imports the compiler: 1.6 s of processor
# time in every command
vars(_there)["_dynamo_marked_constant"] = True


def threads_for(products: int) -> int:
    """How many threads so many multiplications are worth, of those that PyTorch may use."""
    return max(1, min(torch.get_num_threads(), products // WORTH_A_THREAD))
