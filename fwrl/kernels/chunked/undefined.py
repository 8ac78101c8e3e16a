"""Undefined inputs of the chunked scans on a GPU, kept apart without a question to the device.

Where other episodes are excluded by products with zero, NaN passes, as zero times NaN is NaN. A CPU
looks at the result and scans again by reference; to look costs a GPU the wait for all that it was
given to do. So there what is not finite is zero before the scan, and what depends on it NaN after.

Note:
    Of a head all is lost until the next start, where the reference loses only the columns of the
    value that were undefined. ``outer_decay`` and the rules without a gradient by hand still ask.
    Fast weights that overflow by themselves, from finite inputs, are not kept apart.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.state import FastWeights
from fwrl.update_rules import Write, map_write


class Cleaned(NamedTuple):
    """The inputs with zeros for what is not finite, and what may not be believed then."""

    state: FastWeights
    query: Float[Tensor, "B T H K"]
    write: Write
    fresh: Float[Tensor, "#B H K V"] | None
    lost_values: Bool[Tensor, "B T H 1"]
    lost_end: Bool[Tensor, "B H 1 1"]


def clean(
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    fresh: Float[Tensor, "#B H K V"] | None,
) -> Cleaned:
    """All that a scan takes, finite; gradients of what was not are zero."""
    given = [field for field in write if field is not None]
    time = torch.arange(1, starts.shape[1] + 1, device=starts.device)
    wrote = torch.stack([_undefined(field) for field in given]).any(dim=0)
    last_undefined = torch.where(wrote, time[:, None, None], 0).cummax(dim=1).values
    last_start = torch.where(starts, time, 0).cummax(dim=1).values[..., None, None]
    # what an episode begins with is undefined for all of it
    begins = _undefined(state.flatten(2)).unsqueeze(1)
    if fresh is None:
        begins = begins & (last_start == 0)
    else:
        begins = torch.where(last_start == 0, begins, _undefined(fresh.flatten(2)).unsqueeze(1))
    lost = begins | (last_undefined >= last_start.clamp_min(1))
    return Cleaned(
        _finite(state),
        _finite(query),
        map_write(_finite, write),
        None if fresh is None else _finite(fresh),
        lost | _undefined(query),
        lost[:, -1].unsqueeze(-1),
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


def _finite(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    return torch.where(x.isfinite(), x, 0.0)
