"""A residual stack of memory cores. It is a memory core itself: nothing above can tell."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Annotated, Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from pydantic import AfterValidator, model_validator
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Config, ConfigError, Count, Size
from fwrl.core import MemoryCore, MemoryCoreConfig
from fwrl.cores import CoreConfig
from fwrl.cores.fast_weight import FastWeight, State
from fwrl.cores.parts.layers import Gate
from fwrl.kernels import learns_natively, steps_natively
from fwrl.kernels.native import residual
from fwrl.kernels.native.residual import HOOKS, LAYER, UnservedError, places
from fwrl.kernels.native.rows import FeedForward, Norm, feed_forward, sum_norm

# Runs one step or a whole sequence of a core: ``(core, x, state) -> (y, state)``.
Advance = Callable[[MemoryCore[Any], Tensor, Any], tuple[Tensor, Any]]


class StackConfig(Config):
    """The layers around a memory core."""

    width: Size = 128
    """Size of the residual stream, which is the input size of every core."""
    layers: Count = 1
    """Number of layers, each with a core and a state of its own. Where ``core`` is a list it may
    be left out: there are as many as the list has."""
    feed_forward: Size | None = None
    """Hidden units after each core; None: twice the width."""
    gate: bool = False
    """Gates in place of additions, as in GTrXL."""
    bare: bool = False
    """The cores alone, each reading what the one before puts out: no norms, no feed-forward
    networks, nothing added. The output then has the size of the last core's. A policy whose
    features have this width puts no linear map before it either."""

    @model_validator(mode="after")
    def _nothing_is_around_a_bare_core(self) -> "StackConfig":
        if self.bare and (self.gate or self.feed_forward is not None):
            name = "gate" if self.gate else "feed_forward"
            raise ValueError(f"bare is true, which leaves no place for {name}; leave one out")
        return self


def layer_cores(
    config: StackConfig, core: CoreConfig | Sequence[CoreConfig]
) -> tuple[CoreConfig, ...]:
    """The memory of each layer, if there is one for all of them or a list with one for each.

    Raises:
        ConfigError: If the list has another length than there are layers, unless that is 1.
    """
    if isinstance(core, MemoryCoreConfig):
        return (core,) * config.layers
    if not core:
        raise ConfigError("core is an empty list; it should have one memory for each layer")
    if config.layers not in (1, len(core)):
        raise ConfigError(
            f"layers is {config.layers}; core is a list of {len(core)}, so it should be {len(core)}"
            " or be left out"
        )
    return tuple(core)


def _fitted(stack: StackConfig, info: Any) -> StackConfig:
    if "core" not in info.data:
        # there was a mistake in it, which is the one to tell
        return stack
    layers = len(layer_cores(stack, info.data["core"]))
    return stack if layers == stack.layers else stack.model_copy(update={"layers": layers})


# The layers around the memories in the field ``core``, which stands before it.
FittedStack = Annotated[StackConfig, AfterValidator(_fitted)]


class ResidualStack(MemoryCore[tuple[Any, ...]]):
    """State: one core's state per layer. Inputs and outputs have the stack's width.

    A bare one's outputs have the size of the last core's.
    """

    # the arguments of a step in C, once there was one
    _plan: residual.Plan | None = None

    def __init__(
        self, config: StackConfig, core: CoreConfig | Sequence[CoreConfig], dropout: float = 0.0
    ) -> None:
        """Random slow weights, from torch's global generator.

        Args:
            config: The layers.
            core: The memory in each of them, or a list of one for each.
            dropout: The share of hidden units and of additions to the stream that is dropped in
                training. Not a setting of agents: a policy has to give its actions the same
                probability again.

        Raises:
            ConfigError: If a memory does not fit its layer, or the list not the layers.
        """
        super().__init__()
        self.bare = config.bare
        self.input_size = self.output_size = config.width
        self.blocks = nn.ModuleList()
        for number, each in enumerate(layer_cores(config, core)):
            block: Block | BareBlock
            try:
                if config.bare:
                    block = BareBlock(self.output_size, each)
                else:
                    block = Block(config, each, dropout)
            except ConfigError as error:
                place = "" if isinstance(core, MemoryCoreConfig) else f"core.{number}: "
                raise ConfigError(f"{place}{error}") from None
            self.blocks.append(block)
            self.output_size = block.output_size
        self.norm = nn.Identity() if config.bare else nn.LayerNorm(config.width)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> tuple[Any, ...]:
        return tuple(block.core.initial_state(batch_size, device) for block in self._blocks())

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: tuple[Any, ...]
    ) -> tuple[Float[Tensor, "B E"], tuple[Any, ...]]:
        (y,), state = self.step_between(None, x, state, ())
        return y, state

    def step_between(
        self,
        before: nn.Linear | None,
        x: Float[Tensor, "B D"],
        state: tuple[Any, ...],
        after: Sequence[nn.Linear],
        overwrite: bool = False,
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """``step``, with a linear map of its input and linear maps of its output, if any.

        In C it is one call, whose sums for a stream do not depend on the others. With ``overwrite``
        it may leave the new state in place of the given one, which nobody else may then read.
        """
        found = self._in_c(before, x, state, after, overwrite)
        if found is not None:
            return found
        x = x if before is None else before(x)
        y, state = self.through(x, state, lambda core, y, before: core.step(y, before))
        return tuple(each(y) for each in after) or (y,), state

    def _in_c(
        self,
        before: nn.Linear | None,
        x: Float[Tensor, "B D"],
        state: tuple[Any, ...],
        after: Sequence[nn.Linear],
        overwrite: bool,
    ) -> tuple[tuple[Tensor, ...], tuple[Any, ...]] | None:
        """``step_between`` if C serves; else None."""
        if not steps_natively(x):
            return None
        plan = self._plan
        if plan is None or not plan.holds(before, after):
            try:
                layers = [block.layer() for block in self._blocks()]
                plan = self._plan = residual.Plan(self, layers, self.norm, before, after)
            except UnservedError:
                return None
        states: tuple[State, ...] = state
        leaves = [*chain.from_iterable(states)]
        ends = states
        if not (plan.serves(x, states) and steps_natively(*leaves)):
            return None
        if not (overwrite and all(each.is_contiguous() for each in leaves)):
            states = tuple(State(*(leaf.contiguous() for leaf in each)) for each in states)
            ends = tuple(State(*(torch.empty_like(leaf) for leaf in each)) for each in states)
        return plan.step(x, states, ends), ends

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: tuple[Any, ...], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], tuple[Any, ...]]:
        return self.through(x, state, lambda core, y, before: core.unroll(y, before, starts))

    def through(
        self, x: Float[Tensor, "*BT D"], state: tuple[Any, ...], advance: Advance
    ) -> tuple[Float[Tensor, "*BT E"], tuple[Any, ...]]:
        """Lead the stream through all layers; ``advance`` is called with the core of each.

        For learning, all between the memories is in C but for the products, if C can do it.
        """
        if learns_natively(x) and x.shape[-1] == self.input_size:
            try:
                layers = [block.between() for block in self._blocks()]
                last = _norm(self.norm, self.input_size)
            except UnservedError:
                pass
            else:
                return self._through_in_c(x, state, advance, layers, last)
        states: list[Any] = []
        for block, before in zip(self._blocks(), state, strict=True):
            y, after = advance(block.core, block.core_norm(x), before)
            x = block.combine(x, y)
            states.append(after)
        return self.norm(x), tuple(states)

    def _through_in_c(
        self,
        x: Float[Tensor, "*BT D"],
        state: tuple[Any, ...],
        advance: Advance,
        layers: list["Between"],
        last: Norm,
    ) -> tuple[Float[Tensor, "*BT D"], tuple[Any, ...]]:
        added = bias = None
        states: list[Any] = []
        for block, layer, before in zip(self._blocks(), layers, state, strict=True):
            x, normed = sum_norm(x, added, bias, layer.core_norm)
            y, after = advance(block.core, normed, before)
            # C reads what it is given: a memory from elsewhere may return another type
            y = block.resize(y).to(x.dtype).expand_as(x)
            x, normed = sum_norm(x, y, None, layer.norm)
            added, bias = feed_forward(normed, layer.network), layer.bias
            states.append(after)
        return sum_norm(x, added, bias, last)[1], tuple(states)

    @override
    def __getstate__(self) -> dict[str, Any]:
        """All but the arguments of steps in C, which are addresses in this process."""
        return {name: each for name, each in self.__dict__.items() if name != "_plan"}

    def _blocks(self) -> "Iterable[Block]":
        return cast("Iterable[Block]", self.blocks)


class Block(nn.Module):
    """One layer: memory, then a feed-forward network, both normed first and added to the stream."""

    def __init__(self, config: StackConfig, core: CoreConfig, dropout: float) -> None:
        super().__init__()
        width = self.output_size = config.width
        hidden = config.feed_forward or 2 * width
        self.core: MemoryCore[Any] = core.build(width)
        self.core_norm = nn.LayerNorm(width)
        fits = self.core.output_size == width
        self.resize = nn.Identity() if fits else nn.Linear(self.core.output_size, width)
        self.join_core = Gate(width) if config.gate else torch.add
        self.dropout = nn.Dropout(dropout)
        # one place in the sequence, whose numbers name the parameters
        activation = nn.Sequential(nn.GELU(), self.dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), activation, nn.Linear(hidden, width)
        )
        self.join_feed_forward = Gate(width) if config.gate else torch.add

    def layer(self) -> Any:
        """This layer as a ``LAYER``, for steps of a whole stack in C.

        Raises:
            UnservedError: If C does not compute such a layer.
        """
        kinds = type(self.core), type(self.resize), self.join_core
        if kinds != (FastWeight, nn.Identity, torch.add) or not _usual(self.feed_forward.modules()):
            raise UnservedError
        layer: Any = LAYER(width=self.output_size)
        cast(FastWeight, self.core).into(layer)
        norm, widen, activation, narrow = cast(Any, self.feed_forward)
        if activation[0].approximate != "none":
            raise UnservedError
        layer.hidden = widen.out_features
        layer.core_scale, layer.core_shift = places(self.core_norm, nn.LayerNorm)
        layer.scale, layer.shift = places(norm, nn.LayerNorm)
        layer.core_epsilon, layer.epsilon = self.core_norm.eps, norm.eps
        layer.widen, layer.widen_bias = places(widen, nn.Linear)
        layer.narrow, layer.narrow_bias = places(narrow, nn.Linear)
        return layer

    def between(self) -> "Between":
        """The numbers of all but the memory, for learning in C.

        Raises:
            UnservedError: If C does not compute such a layer.
        """
        dropped = self.dropout.p and self.dropout.training
        modules = [*self.feed_forward.modules()]
        if dropped or _hooked(modules) or self.join_core is not torch.add or not _usual(modules):
            raise UnservedError
        norm, widen, activation, narrow = cast(Any, self.feed_forward)
        numbers = (*places(widen, nn.Linear), *places(narrow, nn.Linear))
        if None in numbers or activation[0].approximate != "none":
            raise UnservedError
        network = FeedForward(widen.weight, widen.bias, narrow.weight)
        width = self.output_size
        return Between(_norm(self.core_norm, width), _norm(norm, width), network, narrow.bias)

    def combine(self, x: Float[Tensor, "*BT D"], y: Float[Tensor, "*BT E"]) -> Tensor:
        """The stream after this layer, given what its core made of the stream ``x``."""
        x = self.join_core(x, self.dropout(self.resize(y)))
        return self.join_feed_forward(x, self.dropout(self.feed_forward(x)))


class Between(NamedTuple):
    """The numbers of a layer, but for its memory."""

    core_norm: Norm
    norm: Norm
    network: FeedForward
    bias: Float[Tensor, " D"]


def _norm(module: nn.Module, width: int) -> Norm:
    """The numbers of a layer normalisation of this width.

    Raises:
        UnservedError: If it is something else, or only part of one.
    """
    norm = cast(nn.LayerNorm, module)
    if None in places(norm, nn.LayerNorm) or _hooked([norm]) or norm.normalized_shape != (width,):
        raise UnservedError
    return Norm(norm.weight, norm.bias, norm.eps)


def _hooked(modules: Iterable[nn.Module]) -> bool:
    """Whether somebody wants to be told when one of them is called."""
    return any(vars(each)[name] for each in modules for name in HOOKS)


def _usual(modules: Iterable[nn.Module]) -> bool:
    return tuple(map(type, modules)) == NETWORK


# What stands around the memory in a layer that C computes, in the order of ``modules()``.
NETWORK = (nn.Sequential, nn.LayerNorm, nn.Linear, nn.Sequential, nn.GELU, nn.Dropout, nn.Linear)


class BareBlock(nn.Module):
    """One layer that is a memory and nothing else."""

    def __init__(self, input_size: int, core: CoreConfig) -> None:
        super().__init__()
        self.core: MemoryCore[Any] = core.build(input_size)
        self.output_size = self.core.output_size
        self.core_norm = nn.Identity()

    def layer(self) -> Any:
        """C does not compute such layers.

        Raises:
            UnservedError: Always.
        """
        raise UnservedError

    def between(self) -> "Between":
        """The same."""
        return self.layer()

    def combine(self, _: Float[Tensor, "*BT D"], y: Float[Tensor, "*BT E"]) -> Tensor:
        """The output of the core."""
        return y
