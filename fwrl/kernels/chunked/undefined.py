"""Keeps undefined inputs of chunked scans inside their episode on a GPU, without waiting for it.

Other episodes are excluded by products with zero, which NaN passes: zero times NaN is NaN. On a CPU
the result is looked at and, if it is not finite, scanned again by reference. On a GPU that look
would wait for all queued work. So inputs that are not finite are replaced by zeros before the scan,
and outputs that depend on them by NaN after it.

Note:
    Everything that a head reads is lost until the next start, while the reference loses only the
    columns of the value that were undefined. Fast weights that overflow from finite inputs are not
    kept apart.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.state import FastWeights, Tree, map_tensors, tensors_in


class Lost(NamedTuple):
    """Which outputs of a scan depend on numbers that are not finite."""

    values: Bool[Tensor, "B T H 1"]
    end: Bool[Tensor, "B H 1 1"]


def lost_by(
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Any,
    starts: Bool[Tensor, "B T"],
    fresh: Float[Tensor, "#B H K V"] | None = None,
) -> Lost:
    """The losses in a scan of these inputs; ``write`` is any nesting of tensors ``[B T H F]``."""
    time = torch.arange(1, starts.shape[1] + 1, device=starts.device)
    wrote = torch.stack([_undefined(field) for field in tensors_in(write)]).any(dim=0)
    last_undefined = torch.where(wrote, time[:, None, None], 0).cummax(dim=1).values
    last_start = torch.where(starts, time, 0).cummax(dim=1).values[..., None, None]
    # an undefined first state makes its whole episode undefined
    begins = _undefined(state.flatten(2)).unsqueeze(1)
    if fresh is None:
        begins = begins & (last_start == 0)
    else:
        begins = torch.where(last_start == 0, begins, _undefined(fresh.flatten(2)).unsqueeze(1))
    lost = begins | (last_undefined >= last_start.clamp_min(1))
    return Lost(lost | _undefined(query), lost[:, -1].unsqueeze(-1))


def lose(
    lost: Lost, values: Float[Tensor, "B T H V"], end: FastWeights
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The outputs of the scan, NaN in every head that depends on what was not finite."""
    return torch.where(lost.values, torch.nan, values), torch.where(lost.end, torch.nan, end)


def clean(inputs: Tree) -> Tree:
    """The inputs of a scan, made finite; the gradients of the numbers replaced are zero."""
    return map_tensors(_finite, inputs)


def _undefined(x: Float[Tensor, "*N F"]) -> Bool[Tensor, "*N 1"]:
    return ~x.isfinite().all(dim=-1, keepdim=True)


def _finite(x: Tensor) -> Tensor:
    return x if x.dtype == torch.bool else torch.where(x.isfinite(), x, 0.0)
