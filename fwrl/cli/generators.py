"""The generators of random numbers that belong to nobody, as tensors and back.

Those that somebody owns are saved by their owners: the environments'.
"""

import math
import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def seed_generators(seed: int) -> None:
    """Let torch's, Python's and NumPy's begin with a seed."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Where torch's, Python's and NumPy's generators of this process are."""
    _, words, pending = random.getstate()
    # environments of others may draw from it
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    key, position = legacy["state"]["key"], legacy["state"]["pos"]
    states = {
        "generator.torch": torch.get_rng_state(),
        "generator.python": torch.tensor(words),
        "generator.python.pending": _pending(pending),
        "generator.numpy": torch.as_tensor(np.append(key.astype(np.int64), position)),
        "generator.numpy.pending": _pending(legacy["gauss"] if legacy["has_gauss"] else None),
    }
    if device.type == "cuda":
        states["generator.cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put them where ``generator_states`` found them."""
    torch.set_rng_state(states["generator.torch"])
    if device.type == "cuda" and "generator.cuda" in states:
        torch.cuda.set_rng_state(states["generator.cuda"], device)
    pending = states["generator.python.pending"].item()
    words = tuple(states["generator.python"].tolist())
    random.setstate((3, words, None if math.isnan(pending) else pending))
    *key, position = states["generator.numpy"].tolist()
    pending = states["generator.numpy.pending"].item()
    drawn = not math.isnan(pending)
    state = ("MT19937", np.array(key, np.uint32), position, int(drawn), pending if drawn else 0.0)
    np.random.set_state(state)  # noqa: NPY002


def _pending(normal: float | None) -> Tensor:
    """Normal numbers are drawn in pairs: the second one, or NaN if it is used."""
    return torch.tensor(math.nan if normal is None else normal, dtype=torch.float64)
