"""Keeps undefined inputs of chunked scans inside their episode on a GPU, without waiting for it.

Other episodes are excluded by products with zero, which NaN passes: zero times NaN is NaN. On a CPU
the result is looked at and, if it is not finite, scanned again by reference. On a GPU that look
would wait for all queued work. So inputs that are not finite are replaced by zeros before the scan,
and outputs that depend on them by NaN after it.

Note:
    Everything that a head reads is lost until the next start, while the reference loses only the
    columns of the value that were undefined. ``outer_decay`` and ``channelwise`` still look. Fast
    weights that overflow from finite inputs are not kept apart.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.state import FastWeights, map_tensors, tensors_in
from fwrl.update_rules import ScanInputs


class Cleaned(NamedTuple):
    """The inputs with zeros in place of undefined numbers, and which outputs depend on these."""

    inputs: ScanInputs
    lost_values: Bool[Tensor, "B T H 1"]
    lost_end: Bool[Tensor, "B H 1 1"]


def clean(inputs: ScanInputs) -> Cleaned:
    """The inputs of a scan, made finite; the gradients of the numbers replaced are zero."""
    state, query, write, starts, fresh = inputs
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
    return Cleaned(
        map_tensors(_finite, inputs), lost | _undefined(query), lost[:, -1].unsqueeze(-1)
    )


def lose(
    cleaned: Cleaned, values: Float[Tensor, "B T H V"], end: FastWeights
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The outputs of the scan, NaN in every head that depends on what was not finite."""
    return (
        torch.where(cleaned.lost_values, torch.nan, values),
        torch.where(cleaned.lost_end, torch.nan, end),
    )


def _undefined(x: Float[Tensor, "*N F"]) -> Bool[Tensor, "*N 1"]:
    return ~x.isfinite().all(dim=-1, keepdim=True)


def _finite(x: Tensor) -> Tensor:
    return x if x.dtype == torch.bool else torch.where(x.isfinite(), x, 0.0)
