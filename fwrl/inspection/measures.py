"""Numbers that describe how a memory is used at each time step, for any update rule."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from fwrl.core import Reads, by_steps
from fwrl.state import FastWeights
from fwrl.update_rules import Write

# Name -> meaning.
MEASURES: dict[str, str] = {
    "beta": "write strength, before what a rule makes of it; 0 writes nothing",
    "decay": "how much of the weights survives until the write, in the mean of the key features",
    "state_norm": "Frobenius norm of the fast weights after the write",
    "effective_rank": "how many directions the fast weights use: the exponential of the entropy of "
    "their singular values (Roy and Vetterli 2007)",
    "key_overlap": "largest |cosine| of the key with an earlier key of the episode: near 1 the "
    "write meets what was written there",
    "query_key_cosine": "cosine of where a time reads and where it writes",
}


TINY = torch.finfo(torch.float32).tiny


@torch.no_grad()
def memory_measures(reads: Reads) -> dict[str, Float[Tensor, "B T H"]]:
    """Those of ``MEASURES`` that the rule has, for each head at each time step."""
    _, query, write, starts, _ = reads.inputs
    measures: dict[str, Tensor] = {}
    if write.beta is not None:
        measures["beta"] = write.beta.squeeze(-1)
    if write.decay is not None:
        measures["decay"] = write.decay.mean(dim=-1)
    norm, rank = _of_states(reads).unbind(dim=-1)
    return measures | {
        "state_norm": norm,
        "effective_rank": rank,
        "key_overlap": key_overlap(write.key, starts),
        "query_key_cosine": F.cosine_similarity(query, write.key, dim=-1),
    }


def memory_scalars(memories: Iterable[Reads]) -> dict[str, float]:
    """The mean of each measure over all times, streams, heads and memories, as ``memory/*``."""
    columns: dict[str, list[Tensor]] = {}
    for reads in memories:
        for name, measure in memory_measures(reads).items():
            columns.setdefault(f"memory/{name}", []).append(measure.flatten())
    return {name: float(torch.cat(parts).mean()) for name, parts in columns.items()}


def effective_rank(weights: Float[Tensor, "*B K V"]) -> Float[Tensor, "*B"]:
    """Between 1 and the smaller side; 0 for nothing but zeros; NaN if a number is not finite."""
    values = _singular_values(weights)
    total = values.sum(dim=-1, keepdim=True)
    share = values / total.clamp_min(TINY)
    entropy = -torch.special.xlogy(share, share).sum(dim=-1)
    return torch.where(total.squeeze(-1) == 0, 0.0, entropy.exp())


def _singular_values(weights: Float[Tensor, "*B K V"]) -> Float[Tensor, "*B S"]:
    """The singular values, in any unit; NaN where there are none."""
    try:
        return torch.linalg.svdvals(weights)
    # one matrix that is huge or not finite fails them all
    except RuntimeError:
        largest = weights.abs().amax(dim=(-2, -1), keepdim=True)
        defined = largest.isfinite()
        unit = torch.where(defined, weights / largest.clamp_min(TINY), 0.0)
    try:
        values = torch.linalg.svdvals(unit)
    except RuntimeError:
        values = unit.new_full((*unit.shape[:-2], min(unit.shape[-2:])), torch.nan)
    return torch.where(defined.squeeze(-1), values, torch.nan)


def key_overlap(
    key: Float[Tensor, "B T H K"], starts: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T H"]:
    """The largest |cosine| of each key with an earlier one of its episode; 0 for the first."""
    unit = F.normalize(key, dim=-1).transpose(1, 2)
    episode = starts.cumsum(dim=1)
    earlier = (episode.unsqueeze(2) == episode.unsqueeze(1)).tril(diagonal=-1)
    cosine = torch.where(earlier.unsqueeze(1), (unit @ unit.mT).abs(), 0.0)
    return cosine.amax(dim=-1).transpose(1, 2)


def _of_states(reads: Reads) -> Float[Tensor, "B T H 2"]:
    """Norm and effective rank after each write."""

    def advance(write: Write, weights: FastWeights) -> tuple[Float[Tensor, "B H 2"], FastWeights]:
        weights = reads.rule(weights, write)
        norm = torch.linalg.matrix_norm(weights)
        return torch.stack([norm, effective_rank(weights)], dim=-1), weights

    state, _, write, starts, _ = reads.inputs
    return by_steps(advance, write, state, starts, reads.inputs.fresh_or_zeros())[0]
