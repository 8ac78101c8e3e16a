"""Self-referential weight matrix: fast weights that are their own slow network."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCore, MemoryCoreConfig, by_steps
from fwrl.kernels import recurs_natively
from fwrl.kernels.native import recurrences
from fwrl.state import FastWeights, at_least_float32, without_autocast
from fwrl.update_rules import Write, read, sum_rule

# Initial logit of the write strengths: about a quarter of the full strength.
STRENGTH = -1.0


class SelfReferentialConfig(MemoryCoreConfig):
    """A matrix per head that makes the keys, queries and write strengths of its own changes.

    Note:
        With heads of more than a few units the softmax is nearly flat at first, and the matrix
        hardly changes: at width 128 the last output depends on the input before it 4,400 times
        less than on its own with 4 heads, 1,000 times with the published 8, and 55 times with 32.
        More heads learn to remember sooner.
    """

    about: ClassVar[About] = About(
        update="[y q k b] = f(x) W, W <- W + f(k) (sigmoid(b) (f(q) W - f(k) W)), f = softmax",
        cost="D^2 + 3HK(3K + 4)",
        parallel=False,
        source="Irie et al. 2022",
    )
    kind: Literal["self_referential"] = "self_referential"
    heads: Count = 8
    """Heads, each with an equal part of the input; the published agents have 8 of 16 units."""

    @override
    def build(self, input_size: int) -> "SelfReferential":
        return SelfReferential(input_size, self)


class SelfReferential(MemoryCore[Tensor]):
    """State: how far the matrices have moved from where they begin, ``[B, H, K, V]``.

    K is the size of a head, V = 3 K + 4: the columns make the output, the query, the key and the
    strengths at which these three and the strengths themselves are rewritten. The beginning is
    learned; as it is not a part of the state, it has a gradient at every time.
    """

    # ones where a write strength (row) rules a column of the fast weights
    blocks: Tensor
    remark = "what it writes is read from the matrix itself, not from the input"

    def __init__(self, input_size: int, config: SelfReferentialConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.heads, self.size = config.heads, head_size(config.kind, input_size, config.heads)
        sizes = torch.tensor([self.size, self.size, self.size, 4])
        blocks = torch.eye(4).repeat_interleave(sizes, dim=1, output_size=3 * self.size + 4)
        self.register_buffer("blocks", blocks, persistent=False)
        self.start = nn.Parameter(
            torch.randn(self.heads, self.size, blocks.shape[1]) / self.size**0.5
            + STRENGTH * blocks[-1]
        )
        self.output = nn.Linear(input_size, input_size, bias=False)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(batch_size, *self.start.shape, device=device)

    @override
    def step(self, x: Float[Tensor, "B D"], state: Tensor) -> tuple[Float[Tensor, "B E"], Tensor]:
        with without_autocast(x.device):
            address, weights = self._address(x), self.start + state
            if recurs_natively(address, weights, self.start):
                given = recurrences.SelfReferential(address.unsqueeze(1), weights, self.start, None)
                y, weights = recurrences.self_referential(given)
                y = y.squeeze(1)
            else:
                y, weights = self._advance(address, weights)
        return self.output(y.flatten(start_dim=-2)), weights - self.start

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: Tensor, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], Tensor]:
        with without_autocast(x.device):
            address, weights = self._address(x), self.start + state
            if recurs_natively(address, weights, self.start):
                given = recurrences.SelfReferential(address, weights, self.start, starts)
                y, weights = recurrences.self_referential(given)
            else:
                fresh = self.start.expand_as(state)
                y, weights = by_steps(self._advance, address, weights, starts, fresh)
        return self.output(y.flatten(start_dim=-2)), weights - self.start

    def _address(self, x: Float[Tensor, "*BT D"]) -> Float[Tensor, "*BT H K"]:
        return at_least_float32(x).unflatten(-1, (self.heads, self.size)).softmax(dim=-1)

    def _advance(
        self, address: Float[Tensor, "B H K"], weights: FastWeights
    ) -> tuple[Float[Tensor, "B H K"], FastWeights]:
        """Read, then write: the output is that of the matrix before its change."""
        made = read(weights, address)
        y, addresses, strength = made.split((self.size, 2 * self.size, 4), dim=-1)
        query, key = addresses.unflatten(-1, (2, self.size)).softmax(dim=-1).unbind(-2)
        # reading is linear: one read of the difference is the difference of two
        change = read(weights, query - key)
        return y, sum_rule(weights, Write(key, (strength.sigmoid() @ self.blocks) * change))
