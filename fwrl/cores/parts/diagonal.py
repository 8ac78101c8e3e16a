"""Diagonal state-space models: complex numbers, each of which turns and fades by itself."""

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from fwrl.kernels.associative_scan import complex_recurrence
from fwrl.state import at_least_float32


def diagonal_states(
    written: Float[Tensor, "B T N2"],
    scale: Tensor,
    factor: Complex[Tensor, " N"],
    state: Float[Tensor, "B N 2"],
    starts: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T N 2"]:
    """All states of ``h <- factor * h + scale * written``, as real and imaginary parts.

    Args:
        written: N complex numbers at each time, their parts side by side.
        scale: ``[N]``, real or complex.
        factor: The share and the turn of each number in one time step.
        state: Before the first time.
        starts: Where True, nothing of the past is kept.
    """
    pairs = at_least_float32(written).unflatten(-1, (-1, 2))
    addend = torch.view_as_real(scale * torch.view_as_complex(pairs))
    return complex_recurrence(factor, addend, state, starts)
