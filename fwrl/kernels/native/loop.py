"""Loops over time in C: how one is specified, and how it is called with tensors."""

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import NoneType
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from torch import Tensor

from fwrl.kernels.native import library

# Time steps between two states that are saved for the backward pass, which recomputes those
# between: with more of them less memory is used, and no less computed.
INTERVAL = 16

# How an input that is a number is called in a schema, and its type in C.
NUMBERS: Mapping[Any, tuple[str, Any]] = {
    bool: ("bool", ctypes.c_int64),
    int: ("int", ctypes.c_int64),
    float: ("float", ctypes.c_double),
}

Inputs = TypeVar("Inputs", bound=tuple[Any, ...])
# (inputs, what was saved, gradients that C filled) -> gradient of an input
Gradient = Callable[[Any, Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Loop(Generic[Inputs]):
    """The specification of a loop and its backward pass.

    Shapes are letters, one for each axis of [B T H ...]: those of the inputs, and N, the number of
    saved states. ``P-1`` is one less than P.
    """

    name: str
    """The functions are ``fwrl_<name>_forward`` and ``fwrl_<name>_backward``."""
    inputs: Callable[..., Inputs]
    """A named tuple called like the structure in c/calls.h; first what can have a gradient."""
    sizes: Mapping[str, str]
    """The sizes that the structure has beside those of every loop, and their letters."""
    products: str
    """Letters whose product counts the multiplications of a forward pass."""
    outputs: Mapping[str, str]
    """Results that are returned and can have gradients, and their shapes."""
    saved: Mapping[str, str]
    """Results that only the backward pass reads; empty where none is wanted."""
    read_again: tuple[str, ...] = ()
    """Outputs that the backward pass reads."""
    only_with: Mapping[str, str] = field(default_factory=dict[str, str])
    """Results that are empty unless this input is given and true."""
    buffers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Gradients that C fills beside those of inputs, and their shapes."""
    in_torch: Mapping[str, Gradient] = field(default_factory=dict[str, Gradient])
    """Inputs whose gradients PyTorch computes, of what C filled."""
    strided: tuple[str, ...] = ()
    """The first inputs, if they are [B T H size] and may have gaps."""


class Kernel(Generic[Inputs]):
    """A loop's functions in C, called with tensors."""

    def __init__(self, loop: Loop[Inputs]) -> None:
        self.loop = loop
        declared: Any = loop.inputs
        hints = get_type_hints(declared)
        optional = {name for name, hint in hints.items() if NoneType in get_args(hint)}
        kinds = {n: get_args(hint)[0] if n in optional else hint for n, hint in hints.items()}
        types = {n: NUMBERS[kind][0] if kind in NUMBERS else "Tensor" for n, kind in kinds.items()}
        self.schema = ", ".join(f"{types[n]}{'?' * (n in optional)} {n}" for n in hints)
        arrays = {n: kind for n, kind in kinds.items() if kind not in NUMBERS}
        axes = {n: array.dim_str.split() for n, array in arrays.items()}
        self.differentiable = [n for n, array in arrays.items() if "float32" in array.dtypes]
        self.results = _split({**loop.outputs, **loop.saved})
        self.kept = (*loop.read_again, *loop.saved)
        self.gradients = {n: axes[n] for n in self.differentiable if n not in loop.in_torch}
        self.gradients |= _split(loop.buffers)
        self.incoming = tuple(f"from_{name}" for name in loop.outputs)
        self.outgoing = tuple(f"to_{name}" for name in self.gradients)
        self.structure = library.structure(declared.__name__, self._fields(kinds))
        self.plain = list(hints)[len(loop.strided) :]
        self.size_fields = {"streams": "B", "times": "T", "heads": "H", **loop.sizes}
        self.products = loop.products.split()
        self.sources = _sources(axes)

    def _fields(self, kinds: Mapping[str, Any]) -> dict[str, Any]:
        """The types of the structure's fields, in their order."""
        fields: dict[str, Any] = {**library.LOOP, **dict.fromkeys(self.loop.sizes, ctypes.c_int64)}
        for name, kind in kinds.items():
            pointer = library.Sequence if name in self.loop.strided else ctypes.c_void_p
            fields.setdefault(name, NUMBERS[kind][1] if kind in NUMBERS else pointer)
        others = (*self.results, *self.incoming, *self.outgoing)
        return fields | dict.fromkeys(others, ctypes.c_void_p)

    def _sizes(self, inputs: Inputs) -> dict[str, int]:
        """The size that each letter stands for; 0 where there is no such input."""
        sizes = {"1": 1, "H": 1, "F": 0}
        for name, letters in self.sources.items():
            x = getattr(inputs, name)
            if x is not None:
                sizes.update(zip(letters, x.shape, strict=True))
        sizes["N"] = -(-sizes["T"] // INTERVAL)
        return sizes

    def empty(self, inputs: Inputs, wanted: bool) -> list[Tensor]:
        """The outputs, and if ``wanted`` what is saved, with undefined numbers."""
        return self._empty(inputs, self._sizes(inputs), wanted)

    def _empty(self, inputs: Inputs, sizes: Mapping[str, int], wanted: bool) -> list[Tensor]:
        new, only_with = inputs[0].new_empty, self.loop.only_with
        absent = [name for name, other in only_with.items() if not _given(inputs, other)]
        return [
            new(0 if name in absent else _shape(self.results[name], sizes))
            for name in (self.results if wanted else self.loop.outputs)
        ]

    def forward(self, inputs: Inputs, wanted: bool) -> list[Tensor]:
        """The outputs, and if ``wanted`` what is saved for the backward pass."""
        sizes = self._sizes(inputs)
        results = self._empty(inputs, sizes, wanted)
        call, held = self._call(inputs, sizes)
        library.fill(call, held, self.results if wanted else self.loop.outputs, results)
        library.run(f"fwrl_{self.loop.name}_forward", call)
        return results

    def backward(
        self, inputs: Inputs, kept: Sequence[Tensor], to_outputs: Sequence[Tensor]
    ) -> list[Tensor]:
        """The gradients of the inputs that can have one; empty for those that are None."""
        sizes, new = self._sizes(inputs), inputs[0].new_empty
        found = {
            name: new(0 if getattr(inputs, name, new) is None else _shape(letters, sizes))
            for name, letters in self.gradients.items()
        }
        call, held = self._call(inputs, sizes)
        library.fill(call, held, self.kept, kept)
        library.fill(call, held, self.incoming, to_outputs)
        library.fill(call, held, self.outgoing, found.values())
        library.run(f"fwrl_{self.loop.name}_backward", call)
        saved = dict(zip(self.kept, kept, strict=True))
        for name, gradient in self.loop.in_torch.items():
            given = getattr(inputs, name) is not None
            found[name] = gradient(inputs, saved, found) if given else new(0)
        return [found[name] for name in self.differentiable]

    def empty_gradients(self, inputs: Inputs) -> list[Tensor]:
        """The results of ``backward`` with undefined numbers."""
        leaves = [getattr(inputs, name) for name in self.differentiable]
        return [inputs[0].new_empty(0 if x is None else x.shape) for x in leaves]

    def _call(self, inputs: Inputs, sizes: Mapping[str, int]) -> tuple[Any, list[Tensor]]:
        """The structure with the inputs, and what must outlive the call."""
        call: Any = self.structure()
        call.interval = INTERVAL
        call.threads = library.threads_for(prod([sizes[letter] for letter in self.products]))
        for name, letter in self.size_fields.items():
            setattr(call, name, sizes[letter])
        strided = self.loop.strided
        held = [library.place(getattr(call, name), getattr(inputs, name)) for name in strided]
        library.fill(call, held, self.plain, inputs[len(strided) :])
        return call, held


def _sources(axes: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The inputs whose shapes together give every letter its size, and their letters."""
    known, found = {"1"}, dict[str, list[str]]()
    for name, letters in axes.items():
        if not known.issuperset(letters):
            found[name] = letters
            known.update(letters)
    return found


def _given(inputs: Any, name: str) -> bool:
    return getattr(inputs, name) is not None and getattr(inputs, name) is not False


def _split(shapes: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: shape.split() for name, shape in shapes.items()}


def _shape(letters: Iterable[str], sizes: Mapping[str, int]) -> list[int]:
    return [sizes[x] if x in sizes else sizes[x[:-2]] - 1 for x in letters]
