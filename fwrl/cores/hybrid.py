"""A window of softmax attention and a delta memory on the same keys and values."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts.attention import (
    KeysValues,
    Positions,
    attend,
    extend,
    remember,
    scores_of,
)
from fwrl.cores.parts.layers import HeadNorm, ShortConvolution, head_norm
from fwrl.kernels import scan, unit_silu
from fwrl.state import FastWeights, at_least_float32, time_in_episode, without_autocast
from fwrl.update_rules import ScanInputs, Write, delta_rule


class HybridConfig(MemoryCoreConfig):
    """The synchronous hybrid of Irie et al. (2025): exact for the last inputs, unbounded beyond.

    Both memories get every key and value at once; in the delayed hybrids of that work the delta
    memory gets what leaves the window.

    Note:
        That work also has ``short_convolution=4`` and ``output_norm=rms``, which here are left out
        by default, as in ``fast_weight``. Values pass a SiLU only after a convolution.
    """

    about: ClassVar[About] = About(
        update="W <- W + beta k (v - k W), y = a softmax(q K^T) V + b q W; a, b from x, "
        "K and V the last k, v",
        cost="4D^2 + 2 window D + 3HKV",
        parallel=True,
        source="Irie et al. 2025",
    )
    kind: Literal["hybrid"] = "hybrid"
    heads: Count = 4
    """Heads, each with a window and fast weights of its own; a divisor of the input size."""
    window: int = Field(default=64, ge=0, le=2**18)
    """Time steps that attention sees, the present one included; 0: the delta memory alone."""
    positions: Positions = "rotary"
    """How scores of attention depend on the age of a key: rotations (Su et al. 2021), sinusoids
    with learned biases (Dai et al. 2019), or not at all. The delta memory knows no ages."""
    delta: bool = True
    """Whether there is a delta memory; without one the window is alone."""
    mixer: Literal["sigmoid", "sum"] = "sigmoid"
    """The weights of the two reads of each head: two sigmoids of the input, or one and one."""
    short_convolution: int = Field(default=0, ge=0, le=2**10)
    """Time steps that a causal convolution of queries, keys and values spans, often 4; 0: none."""
    output_norm: HeadNorm = "none"
    """Scales the mixed read of each head to unit size (``layer`` without learned scales)."""

    @model_validator(mode="after")
    def _some_memory(self) -> "HybridConfig":
        if not (self.window or self.delta):
            raise ValueError("window is 0 and delta is false, so nothing is kept; use one of them")
        return self

    @override
    def build(self, input_size: int) -> "Hybrid":
        return Hybrid(input_size, self)


class State(NamedTuple):
    """The fast weights (H = 0 without them), the window, and the convolution's last inputs."""

    weights: FastWeights
    window: KeysValues
    # how many of the time steps in the window are of this episode
    held: Float[Tensor, " B"]
    recent: Float[Tensor, "B R P"]


class Addressed(NamedTuple):
    """All that both memories are given: queries, keys and values, and the weights of the reads."""

    query: Float[Tensor, "B T H K"]
    pair: KeysValues
    of_window: Float[Tensor, "B T H 1"] | None
    of_delta: Float[Tensor, "B T H 1"] | None


class Hybrid(MemoryCore[State]):
    """Its window holds the ``window - 1`` time steps before the next one."""

    def __init__(self, input_size: int, config: HybridConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.past = config.heads, max(config.window - 1, 0)
        self.head_size = head_size("hybrid", input_size, config.heads)
        self.project = nn.Linear(input_size, 3 * input_size, bias=False)
        self.beta = nn.Linear(input_size, config.heads) if config.delta else None
        sides = config.heads * (bool(config.window) + config.delta)
        self.mixer = nn.Linear(input_size, sides) if config.mixer == "sigmoid" else None
        self.scores = None
        if config.window:
            self.scores = scores_of(config.positions, config.heads, self.head_size, config.window)
        size = config.short_convolution
        self.convolution = ShortConvolution(3 * input_size, size) if size else None
        self.output_norm = head_norm(config.output_norm, self.head_size)
        self.output = nn.Linear(input_size, input_size, bias=False)
        self.remark = _remark(config)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        size, written = self.head_size, 0 if self.beta is None else self.heads
        shape = batch_size, self.past, self.heads, size
        key, value = torch.zeros(2, *shape, device=device).unbind(0)
        if self.convolution is None:
            recent = torch.zeros(batch_size, 0, 0, device=device)
        else:
            recent = self.convolution.initial_state(batch_size, device)
        return State(
            torch.zeros(batch_size, written, size, size, device=device),
            KeysValues(key, value),
            torch.zeros(batch_size, device=device),
            recent,
        )

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        addressed, recent = self._address(x, state, starts)
        seen, window = time_in_episode(starts, state.held), extend(state.window, addressed.pair)
        weights, found = state.weights, None
        if self.scores is not None:
            with without_autocast(x.device):
                read = attend(self.scores, addressed.query, *window, seen)
            found = _weighed(read, addressed.of_window)
        if self.beta is not None:
            query, write = self._delta_inputs(self.beta(x), addressed)
            read, weights = scan(delta_rule, weights, query, write, starts)
            read = _weighed(read, addressed.of_delta)
            found = read if found is None else found + read
        assert found is not None, "a configuration without any memory"
        y = self.output(self.output_norm(found).flatten(start_dim=-2))
        return y, State(weights, *remember(window, seen[:, -1], self.past), recent)

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        if self.beta is None:
            return []
        addressed, _ = self._address(x, state, starts)
        query, write = self._delta_inputs(self.beta(x), addressed)
        # what the mixer makes of a read is the read of a weighed query
        inputs = ScanInputs(state.weights, _weighed(query, addressed.of_delta), write, starts)
        return [Reads("fast weights", delta_rule, inputs)]

    def _address(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Addressed, Float[Tensor, "B R P"]]:
        """All that the memories are given, and the convolution's new state."""
        projected, recent = self.project(x), state.recent
        if self.convolution is not None:
            projected, recent = self.convolution(projected, recent, starts)
        parts = at_least_float32(projected).unflatten(-1, (3, self.heads, self.head_size))
        query, key, value = parts.unbind(-3)
        if self.convolution is not None:
            value = F.silu(value)
        if self.mixer is None:
            return Addressed(query, KeysValues(key, value), None, None), recent
        mixed = at_least_float32(self.mixer(x)).sigmoid().unflatten(-1, (-1, self.heads, 1))
        # the first for the window, the last for the delta memory, if there are both
        sides = mixed[..., 0, :, :], mixed[..., -1, :, :]
        return Addressed(query, KeysValues(key, value), *sides), recent

    def _delta_inputs(
        self, logit: Float[Tensor, "B T H"], addressed: Addressed
    ) -> tuple[Float[Tensor, "B T H K"], Write]:
        """The queries and writes of the delta memory: addresses of unit length."""
        strength = at_least_float32(logit).sigmoid().unsqueeze(-1)
        query, (key, value) = addressed.query, addressed.pair
        return unit_silu(query), Write(unit_silu(key), value, strength)


def _weighed(
    read: Float[Tensor, "B T H V"], weight: Float[Tensor, "B T H 1"] | None
) -> Float[Tensor, "B T H V"]:
    return read if weight is None else weight * read


def _remark(config: HybridConfig) -> str:
    """The parts between the reads and the input or output, which a recall map leaves out."""
    remarks = {
        "it attends to a window of keys by a softmax": not config.delta,
        "attention to a window of keys by a softmax is added": config.delta and config.window > 0,
        "a short convolution mixes the last inputs before they are written or asked": bool(
            config.short_convolution
        ),
        "a norm of each head follows": config.output_norm != "none",
    }
    return "; ".join(text for text, applies in remarks.items() if applies)
