"""A short convolution in C: the causal, depthwise one, and SiLU of some of its channels."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.loop import Loop
from fwrl.kernels.native.operators import register


class Convolution(NamedTuple):
    """The sequence, and what it is convolved with."""

    # P: first the C channels, then what is only copied
    input: Float[Tensor, "B T P"]
    # of S times, the present first
    weight: Float[Tensor, "S C"]
    recent: Float[Tensor, "B S-1 C"]
    starts: Bool[Tensor, "B T"]
    # the first channel of which SiLU is taken; C: none is
    silu_from: int


LOOP = Loop(
    name="convolution",
    inputs=Convolution,
    sizes={"size": "S", "channels": "C", "row": "P"},
    products="B T S C",
    outputs={"output": "B T P", "end": "B S-1 C"},
    saved={},
    buffers={"weights": "B S C"},
    in_torch={"weight": lambda _, __, found: found["weights"].sum(0)},
)
_run = register(LOOP)


def convolution(
    x: Float[Tensor, "B T P"],
    weight: Float[Tensor, "S C"],
    recent: Float[Tensor, "B R C"],
    starts: Bool[Tensor, "B T"],
    silu_from: int | None = None,
) -> tuple[Float[Tensor, "B T P"], Float[Tensor, "B R C"]]:
    """The convolved channels with the rest of each time, and the R = S - 1 last times.

    Args:
        x: First the channels, then numbers that stay as they are.
        weight: Of the present first, then of the times before.
        recent: The channels at the times before the sequence, the last one last; 0 where
            the episode had not begun.
        starts: Where an episode starts, which sees nothing of what was before.
        silu_from: The first channel of which SiLU is taken afterwards; None: none.
    """
    first = weight.shape[1] if silu_from is None else silu_from
    output, end = _run(Convolution(x, weight, recent, starts, first))
    return output, end
