"""One time of a residual stack in C, without gradients: a step in one call, not in sixty.

The sums of a stream do not depend on the other streams, nor on the number of threads. Weights are
read where they lie, at every call: there is no copy of them that could be older.
"""

from collections.abc import Sequence
from ctypes import Structure, addressof, c_double, c_int64, c_void_p
from itertools import chain
from operator import attrgetter, is_
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwrl.kernels.native import library as c

LAYER = c.structure(
    "Layer",
    {
        **dict.fromkeys(("width", "hidden", "heads", "keys", "values"), c_int64),
        **dict.fromkeys(("removes", "output_norm", "convolution"), c_int64),
        **dict.fromkeys(("address_epsilon", "max_beta"), c_double),
        **dict.fromkeys(("core_epsilon", "output_epsilon", "epsilon"), c_double),
        **dict.fromkeys(("core_scale", "core_shift", "project", "mix"), c_void_p),
        **dict.fromkeys(("beta", "beta_bias"), c_void_p),
        **dict.fromkeys(("step", "log_rate", "step_bias", "output_scale", "output"), c_void_p),
        **dict.fromkeys(("scale", "shift", "widen", "widen_bias"), c_void_p),
        **dict.fromkeys(("narrow", "narrow_bias"), c_void_p),
    },
)
MAP = c.structure("Map", {"outputs": c_int64, **dict.fromkeys(("weight", "bias"), c_void_p)})
RESIDUAL = c.structure(
    "Residual",
    {
        **c.LOOP,
        **dict.fromkeys(("width", "inputs", "layers", "maps"), c_int64),
        "epsilon": c_double,
        **dict.fromkeys(("input", "before", "before_bias", "layer", "scale", "shift"), c_void_p),
        **dict.fromkeys(("map", "states", "ends", "recents", "recent_ends", "outputs"), c_void_p),
    },
)
# Attributes of every module: dictionaries of hooks, and of what the module is made of.
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
TABLES = ("_modules", "_parameters")
# The fast weights of one of several layers, whose sizes may differ.
OfLayer: TypeAlias = Float[Tensor, "B _ _ _"]
# They and the last projections, of which there are none without a short convolution.
Memory: TypeAlias = tuple[OfLayer, Float[Tensor, "B _ _"]]
# Stands after the last of several things.
END = object()
DTYPE = attrgetter("dtype")


class UnservedError(Exception):
    """Something that C does not compute with; whoever asked goes on without it."""


def plain(module: nn.Module, kind: type[nn.Module]) -> Any:
    """The module, if it is of this type and no subclass.

    Raises:
        UnservedError: If it is another.
    """
    if type(module) is not kind:
        raise UnservedError
    return module


def place(x: Tensor | None) -> int | None:
    """Where a tensor begins; null if there is none.

    Raises:
        UnservedError: If it has gaps, or is not in float32 on a CPU.
    """
    if x is None:
        return None
    if not (c.served(x) and x.is_contiguous()):
        raise UnservedError
    return x.data_ptr()


def places(module: nn.Module, kind: type[nn.Module]) -> tuple[int | None, int | None]:
    """Where the weight and the bias of a module of this type begin.

    Raises:
        UnservedError: If C cannot stand for it.
    """
    found = plain(module, kind)
    return place(found.weight), place(getattr(found, "bias", None))


def _shapes_of(layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of what a stream has in this layer: its weights, and its last projections."""
    row = layer.heads * (2 * layer.keys + layer.values)
    recent = (layer.convolution - 1, row) if layer.convolution else (0, 0)
    return (layer.heads, layer.keys, layer.values), recent


class Plan:
    """The arguments of a step, but for its input and states: made from modules, while they last."""

    def __init__(
        self,
        stack: nn.Module,
        layers: Sequence[Structure],
        norm: nn.Module,
        before: nn.Linear | None,
        after: Sequence[nn.Linear],
    ) -> None:
        """The plan for a stack, and linear maps before and after it.

        Args:
            stack: The module that has the layers and the norm.
            layers: A ``LAYER`` for each.
            norm: Normalises the stream after all layers.
            before: Maps the input to the stream.
            after: Map the normed stream.

        Raises:
            UnservedError: If C cannot stand for a module.
        """
        width = plain(norm, nn.LayerNorm).normalized_shape[0]
        self.layers = (LAYER * len(layers))(*layers)
        self.maps = (MAP * len(after))(
            *(MAP(each.out_features, *places(each, nn.Linear)) for each in after)
        )
        self.around = (before, *after)
        self.sizes = [each.out_features for each in after] or [width]
        self.shapes = [_shapes_of(each) for each in layers]
        self.work = width * sum(each.hidden for each in layers)
        self.call: Any = RESIDUAL(heads=1, width=width, layers=len(layers), maps=len(after))
        self.call.layer, self.call.map = addressof(self.layers), addressof(self.maps)
        self.call.epsilon, (self.call.scale, self.call.shift) = norm.eps, places(norm, nn.LayerNorm)
        self.call.inputs = self.inputs = width if before is None else before.in_features
        if before is not None:
            self.call.before, self.call.before_bias = places(before, nn.Linear)
        self._remember([stack, *filter(None, self.around)])

    def _remember(self, roots: Sequence[nn.Module]) -> None:
        """Keep what the modules are made of, to see whether it is still the same."""
        modules = [each for root in roots for each in root.modules()]
        self.hooks = [vars(each)[name] for each in modules for name in HOOKS]
        self.dropouts = [each for each in modules if isinstance(each, nn.Dropout)]
        self.tables = [vars(each)[name].values() for each in modules for name in TABLES]
        self.parts = [*chain.from_iterable(self.tables), END]
        self.parameters = [each for each in self.parts if isinstance(each, Tensor)]
        self.places = [*map(Tensor.data_ptr, self.parameters)]

    def holds(self, before: nn.Linear | None, after: Sequence[nn.Linear]) -> bool:
        """Whether it is for these maps, and nothing that it was made from has been replaced.

        Numbers that were written into parameters do not matter: no copy of them was made.
        """
        return (
            len(after) == len(self.maps)
            and all(map(is_, (before, *after), self.around))
            and all(map(is_, chain(chain.from_iterable(self.tables), (END,)), self.parts))
            and [*map(Tensor.data_ptr, self.parameters)] == self.places
            and {*map(DTYPE, self.parameters)} == {torch.float32}
        )

    def serves(self, x: Float[Tensor, "B D"], states: Sequence[Memory]) -> bool:
        """Whether C does all that the modules would do with tensors of these shapes."""
        return (
            not any(self.hooks)
            and not any(each.p and each.training for each in self.dropouts)
            and x.shape[1:] == (self.inputs,)
            and all(
                leaf.shape == (x.shape[0], *shape)
                for state, shapes in zip(states, self.shapes, strict=True)
                for leaf, shape in zip(state, shapes, strict=True)
            )
        )

    def step(
        self, x: Float[Tensor, "B D"], states: Sequence[Memory], ends: Sequence[Memory]
    ) -> tuple[Tensor, ...]:
        """The outputs of the maps after the stack, or the normed stream if there are none.

        Args:
            x: The input.
            states: Of each layer, before; without gaps.
            ends: Filled with those after; without gaps. They may be those before.
        """
        streams, x = x.shape[0], x.contiguous()
        outputs = [x.new_empty(streams, size) for size in self.sizes]
        # they must outlive the call
        numbers = (*zip(*states, strict=True), *zip(*ends, strict=True), outputs)
        arrays = [(c_void_p * len(each))(*map(Tensor.data_ptr, each)) for each in numbers]
        call: Any = RESIDUAL.from_buffer_copy(self.call)
        call.streams, call.input = streams, x.data_ptr()
        call.threads = c.threads_for(streams * self.work)
        call.states, call.recents, call.ends, call.recent_ends, call.outputs = map(
            addressof, arrays
        )
        c.run("fwrl_residual", call)
        return tuple(outputs)
