"""The recall map row by row, while an episode goes on: bounded, however long it becomes.

The whole map costs the square of the episode. Here it is computed of pieces of an episode in their
order, each with the piece before it, and a row has the shares of the last steps only. They are as
exact as in the whole map: all that is older stands in one more share.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from agents.inspection import Watched, watch
from agents.policy import PolicyInput, RecurrentPolicy
from fwrl.reads import Reads, join, remark
from fwrl.recall_map import recall_map


class Rows(NamedTuple):
    """What all heads of one memory read at T times, in shares of the read."""

    name: str
    # of the steps up to each time, the newest last; 0 before the episode
    share: Float[Tensor, "T S"]
    # of all steps before these, and of what the episode began with
    older: Float[Tensor, " T"]


class Followed(NamedTuple):
    """How far an episode was followed: its last piece, and the policy's state after it."""

    times: int
    layers: Sequence[Watched]
    state: Any

    @property
    def exact(self) -> bool:
        """Whether all memories have recall maps."""
        return all(reads and all(read.exact for read in reads) for _, reads in self.layers)

    @property
    def remark(self) -> str:
        """In words: what the rows are, or why there are none."""
        return "; ".join(sorted({remark(core, reads) for core, reads in self.layers}))


def follow(policy: RecurrentPolicy, inputs: PolicyInput, before: Followed | None) -> Followed:
    """Read the next piece of an episode.

    Args:
        policy: That played it.
        inputs: ``[1, T]``; the first piece begins where the episode opens.
        before: The piece before it; None for the first.
    """
    state = policy.initial_state(1) if before is None else before.state
    layers, state = watch(policy, inputs, state)
    return Followed(inputs.elapsed.shape[1], layers, state)


@torch.no_grad()
def recall_rows(now: Followed, before: Followed | None, window: int) -> list[Rows]:
    """The rows of a piece of an episode, of each memory in the order of the reads.

    Args:
        now: All its memories have recall maps.
        before: The piece before it, of at least as many steps as a row has, if it is not the first.
        window: Steps of a row, S.
    """
    pieces = [now] if before is None else [before, now]
    memories = zip(*(_reads(piece.layers) for piece in pieces), strict=True)
    found: list[Rows] = []
    for name, parts in zip(_names(now.layers), memories, strict=True):
        scans = [part.scanned for part in parts]
        whole = join(scans, torch.cat([scan.starts for scan in scans], dim=1))
        recall = recall_map(whole, parts[0].writes)
        share = recall.share[0, -now.times :, -1]
        newest = torch.arange(share.shape[1] - now.times, share.shape[1], device=share.device)
        columns = newest.unsqueeze(1) + torch.arange(window, device=share.device)
        shown = F.pad(share, (window - 1, 0)).gather(1, columns)
        older = share.sum(dim=1) - shown.sum(dim=1) + recall.before[0, -now.times :, -1]
        found.append(Rows(name, shown.cpu(), older.cpu()))
    return found


def _reads(layers: Sequence[Watched]) -> list[Reads]:
    return [read for _, reads in layers for read in reads]


def _names(layers: Sequence[Watched]) -> list[str]:
    """Of the memories; the layer is left out where there is only one."""
    return [
        f"layer {number}, {read.name}" if len(layers) > 1 else read.name
        for number, (_, reads) in enumerate(layers, 1)
        for read in reads
    ]
