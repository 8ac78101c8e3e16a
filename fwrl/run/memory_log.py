"""The memory in TensorBoard: measures of its use, and pictures of its state."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.inspection import watch
from agents.policy import RecurrentPolicy
from agents.rollout import Rollout
from fwrl.inspection.measures import memory_scalars
from fwrl.state import take_rows, tensors_in

# Rows of a rollout that are measured, which is enough for a mean.
ROWS = 4
# Pixels of the smaller side of a picture, at least.
SMALLEST_SIDE = 128
# Blue below zero, white at zero, orange above: the colour-blind tell these apart.
BELOW, ZERO, ABOVE = (33, 102, 172), (247, 247, 247), (230, 97, 1)
# The tag memory/state_norm was taken: it is the root mean square of all numbers in the state.
RENAMED = {"memory/state_norm": "memory/weights_norm"}


@torch.no_grad()
def memory_metrics(policy: RecurrentPolicy, rollout: Rollout) -> dict[str, float]:
    """``memory/*`` over the first rows of a rollout, read again with the present parameters."""
    rows = slice(0, ROWS)
    layers, _ = watch(policy, take_rows(rollout.inputs, rows), take_rows(rollout.memory, rows))
    measured = memory_scalars(reads for layer in layers for reads in layer.reads)
    return {RENAMED.get(name, name): value for name, value in measured.items()}


def state_pictures(memory: Any) -> dict[str, NDArray[np.uint8]]:
    """Pictures ``[H W 3]`` of the matrices in the first stream's state, by tag."""
    pictures: dict[str, NDArray[np.uint8]] = {}
    for number, layer in enumerate(memory):
        matrices = [leaf[0] for leaf in tensors_in(layer) if _is_matrix(leaf)]
        for index, heads in enumerate(matrices):
            name = f"memory/layer_{number}" + (f"_{index}" if len(matrices) > 1 else "")
            pictures[name] = _picture(heads.float().cpu().numpy())
    return pictures


def _is_matrix(leaf: Tensor) -> bool:
    # [N H K V]: fast weights of each head
    return leaf.dim() == 4 and min(leaf.shape[2:]) > 1


def _picture(heads: NDArray[Any]) -> NDArray[np.uint8]:
    """A row of matrices, each number a square; the largest number has the fullest colour."""
    largest = np.abs(heads).max() or 1.0
    # what is not finite is white
    with np.errstate(invalid="ignore"):
        share = np.clip(np.nan_to_num(heads / largest), -1, 1)[..., None]
    zero, above, below = (np.array(colour, float) for colour in (ZERO, ABOVE, BELOW))
    coloured = np.where(share > 0, zero + share * (above - zero), zero - share * (below - zero))
    factor = max(1, SMALLEST_SIDE // min(heads.shape[1:]))
    squares = coloured.round().astype(np.uint8).repeat(factor, 1).repeat(factor, 2)
    gap = np.full((squares.shape[1], factor, 3), 255, np.uint8)
    parts = [part for head in squares for part in (head, gap)]
    return np.concatenate(parts[:-1], axis=1)
