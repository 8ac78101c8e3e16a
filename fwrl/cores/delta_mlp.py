"""Delta MLP (Irie et al. 2021): the fast network is a residual stack of two-layer blocks."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count, Size, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, Reads
from fwrl.cores.parts.layers import JoinHeads, SlowNetwork
from fwrl.feature_maps import FeatureMap, FeatureOptions
from fwrl.kernels import scan, scan_step
from fwrl.update_rules import ScanInputs, Write, delta_rule

# One delta memory over a step or a sequence, given its weights, query and write.
Memory = Callable[[Tensor, Tensor, Write], tuple[Tensor, Tensor]]


class DeltaMLPConfig(MemoryCoreConfig):
    """Each layer of the fast network is a delta memory of its own.

    Note:
        The published code projects twice the keys and values that it uses; here only those.
    """

    about: ClassVar[About] = About(
        update="W, U <- delta rules from x, y <- y + f(f(norm(y)) W) U for each block, from y = q",
        cost="2D^2, and for each block 10D^2 + 24HKV",
        parallel=True,
        source="Irie et al. 2021",
    )
    kind: Literal["delta_mlp"] = "delta_mlp"
    heads: Count = 4
    """Heads, each with a fast network of its own; a divisor of the input size."""
    blocks: Count = 1
    """Blocks of the fast network, each of two fast layers."""
    expansion: Size = 4
    """How many times wider than a head the layer inside a block is."""

    @override
    def build(self, input_size: int) -> "DeltaMLP":
        return DeltaMLP(input_size, self)


class BlockState(NamedTuple):
    """The fast weights of the two layers of one block; F units lie between them."""

    widen: Float[Tensor, "B H K F"]
    narrow: Float[Tensor, "B H F V"]


class DeltaMLP(MemoryCore[tuple[BlockState, ...]]):
    """State: one ``BlockState`` per block. One scan per fast layer, each parallel over time."""

    remark = (
        "norms and feature maps stand between the layers, so that a share in one of them is "
        "no share in the output"
    )

    def __init__(self, input_size: int, config: DeltaMLPConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.blocks = config.blocks
        self.size = size = head_size(config.kind, input_size, config.heads)
        self.wide = wide = config.expansion * size
        # the query; then, for the two layers of each block, a key, a value and a strength
        sizes = [size] + [size, wide, 1, wide, size, 1] * self.blocks
        self.slow = SlowNetwork(input_size, config.heads, sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(self.blocks))
        self.features = FeatureMap("elu_plus_one", FeatureOptions(size), "sum")
        self.wide_features = FeatureMap("elu_plus_one", FeatureOptions(wide), "sum")
        self.output = JoinHeads(config.heads, size, input_size, scaled=False)

    @override
    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> tuple[BlockState, ...]:
        shape = (batch_size, self.slow.heads)
        return tuple(
            BlockState(
                self.slow.zeros(*shape, self.size, self.wide, device=device),
                self.slow.zeros(*shape, self.wide, self.size, device=device),
            )
            for _ in range(self.blocks)
        )

    @override
    def step(
        self, x: Float[Tensor, "B D"], state: tuple[BlockState, ...]
    ) -> tuple[Float[Tensor, "B E"], tuple[BlockState, ...]]:
        return self._through(x, state, partial(scan_step, delta_rule))

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: tuple[BlockState, ...], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], tuple[BlockState, ...]]:
        return self._through(x, state, partial(scan, delta_rule, starts=starts))

    @override
    def reads(
        self, x: Float[Tensor, "B T D"], state: tuple[BlockState, ...], starts: Bool[Tensor, "B T"]
    ) -> list[Reads]:
        found: list[Reads] = []

        def memory(weights: Tensor, query: Tensor, write: Write) -> tuple[Tensor, Tensor]:
            block, layer = divmod(len(found), 2)
            name = f"block {block + 1}, layer {layer + 1}"
            inputs = ScanInputs(weights, query, write, starts)
            found.append(Reads(name, delta_rule, inputs))
            return scan(delta_rule, *inputs)

        self._through(x, state, memory)
        return found

    def _through(
        self, x: Float[Tensor, "*BT D"], state: tuple[BlockState, ...], memory: Memory
    ) -> tuple[Float[Tensor, "*BT E"], tuple[BlockState, ...]]:
        y, *writes = self.slow(x)
        after: list[BlockState] = []
        for block, norm in enumerate(self.norms):
            key, value, beta, wide_key, wide_value, wide_beta = writes[6 * block : 6 * block + 6]
            write = Write(self.features(key), value, beta.sigmoid())
            inner, widen = memory(state[block].widen, self.features(norm(y)), write)
            write = Write(self.wide_features(wide_key), wide_value, wide_beta.sigmoid())
            read, narrow = memory(state[block].narrow, self.wide_features(inner), write)
            y = y + read
            after.append(BlockState(widen, narrow))
        return self.output(y), tuple(after)
