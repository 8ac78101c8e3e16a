"""Delta-Delta Net (Irie et al. 2021): fast weights that are programmed by fast weights."""

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts.layers import JoinHeads, SlowNetwork
from fwrl.feature_maps import FeatureMap, FeatureOptions
from fwrl.kernels import scan, scan_step
from fwrl.state import FastWeights
from fwrl.update_rules import ScanInputs, Write, delta_rule

# One delta memory over a step or a sequence, given its weights, query, write and initial weights.
Memory = Callable[[Tensor, Tensor, Write, Tensor | None], tuple[Tensor, Tensor]]


class DeltaDeltaConfig(MemoryCoreConfig):
    """Two delta memories per head; the first reads out what the second is to write and read."""

    about: ClassVar[About] = About(
        update="P <- delta rule from x, (q, k, v, beta) = q' P, W <- W + beta k (v - k W), y = q W",
        cost="6D^2 + 12HKV",
        parallel=True,
        source="Irie et al. 2021",
    )
    kind: Literal["delta_delta"] = "delta_delta"
    heads: Count = 4
    """Heads, each with two memories of its own; a divisor of the input size."""
    learned_initial_state: bool = False
    """Whether the first memory begins with weights that are learned, in place of zeros."""
    scale_output: bool = False
    """Divides what heads return by the root of their size, as the published language models."""

    @override
    def build(self, input_size: int) -> "DeltaDelta":
        return DeltaDelta(input_size, self)


class State(NamedTuple):
    """The weights of the memory that programs, and of the one that is programmed."""

    program: Float[Tensor, "B H K P"]
    weights: FastWeights


class DeltaDelta(MemoryCore[State]):
    """Two scans, each parallel over time."""

    remark = (
        "the first memory makes keys, values and queries of the second, so that an input "
        "can work through both"
    )

    def __init__(self, input_size: int, config: DeltaDeltaConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.size = size = head_size(config.kind, input_size, config.heads)
        # query, key, value, strength
        self.parts = [size] * 3 + [1]
        # the value of the first memory is all that the second one needs
        self.slow = SlowNetwork(input_size, config.heads, [size, size, sum(self.parts), 1])
        self.feature_map = FeatureMap("elu_plus_one", FeatureOptions(size), "sum")
        self.output = JoinHeads(config.heads, size, input_size, config.scale_output)
        self.start = None
        if config.learned_initial_state:
            # the range of the published code
            start = torch.empty(1, config.heads, size, sum(self.parts)).uniform_(1, 2)
            self.start = nn.Parameter(start)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        shape = (batch_size, self.slow.heads, self.size)
        weights = self.slow.zeros(*shape, self.size, device=device)
        if self.start is None:
            program = self.slow.zeros(*shape, sum(self.parts), device=device)
        else:
            program = self.start.to(device).expand(batch_size, -1, -1, -1).clone()
        return State(program, weights)

    @override
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B E"], State]:
        return self._through(
            x, state, lambda weights, query, write, _: scan_step(delta_rule, weights, query, write)
        )

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        return self._through(
            x,
            state,
            lambda weights, query, write, fresh: scan(
                delta_rule, weights, query, write, starts, fresh
            ),
        )

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        found: list[Reads] = []

        def memory(
            weights: Tensor, query: Tensor, write: Write, fresh: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            name = "programmed memory" if found else "programming memory"
            inputs = ScanInputs(weights, query, write, starts, fresh)
            found.append(Reads(name, delta_rule, inputs))
            return scan(delta_rule, *inputs)

        self._through(x, state, memory)
        return found

    def _through(
        self, x: Float[Tensor, "*BT D"], state: State, memory: Memory
    ) -> tuple[Float[Tensor, "*BT E"], State]:
        read, program = memory(state.program, *self._asked(self.slow(x)), self.start)
        asked = self._asked(read.split(self.parts, dim=-1))
        values, weights = memory(state.weights, *asked, None)
        return self.output(values), State(program, weights)

    def _asked(self, parts: tuple[Tensor, ...]) -> tuple[Float[Tensor, "*BT H K"], Write]:
        """The query and the write, from what a slow network or the first memory returned."""
        query, key, value, strength = parts
        write = Write(self.feature_map(key), value, strength.sigmoid())
        return self.feature_map(query), write
