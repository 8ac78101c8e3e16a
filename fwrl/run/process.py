"""Settings and state of this process: freed memory, device, random generators, and a clock."""

import ctypes
import math
import random
import sys
import time
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor

from fwrl.config import ConfigError

# Rows, inputs and outputs of the products that are tried, and the largest error of one, in units of
# the numbers that it sums: rounded to bfloat16 it is more than 1e-2, in float32 less than 1e-5.
PRODUCTS = ((16, 64, 64), (512, 128, 388), (2048, 256, 128))
ROUNDING = 1e-4
# Parameters of glibc's mallopt, and the largest value that it takes for the second.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """Reuse freed memory for tensors up to 32 MiB, and return none to the system.

    By default glibc maps large blocks anew each time, and the system clears every page: for states
    of some megabytes that took longer than computing them. Without glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    # musl has no such function
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(TRIM_THRESHOLD, 2**30)


def compute_with(num_threads: int) -> None:
    """Let PyTorch compute with so many threads, and by oneDNN where that costs no exactness.

    Products of float32 on a CPU are MKL's, which uses half of an AMD processor's vectors. PyTorch
    asks oneDNN, which uses all, only where products may be rounded to bfloat16; oneDNN rounds only
    where the processor has units for it. Whether it is faster than MKL elsewhere is not known.
    """
    torch.set_num_threads(num_threads)
    if _stays_exact():
        torch.set_float32_matmul_precision("medium")


@cache
def _stays_exact() -> bool:
    """Whether products that may be rounded to bfloat16 are not, and there is no GPU to do so."""
    if torch.cuda.is_available():
        return False
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        # somebody has set the precision of one library alone: it stays as it is
        return False
    generator = torch.Generator().manual_seed(0)
    torch.set_float32_matmul_precision("medium")
    try:
        return all(_error(*shape, generator) < ROUNDING for shape in PRODUCTS)
    finally:
        torch.set_float32_matmul_precision(before)


def _error(rows: int, size: int, columns: int, generator: torch.Generator) -> float:
    """The largest error of a product and of the two that its backward pass needs."""
    x, weight, to_y = (
        torch.randn(shape, generator=generator)
        for shape in ((rows, size), (columns, size), (rows, columns))
    )
    pairs = ((x, weight.t()), (to_y, weight), (to_y.t(), x))
    errors = [(one @ two).double() - one.double() @ two.double() for one, two in pairs]
    scales = [one.shape[1] ** 0.5 for one, _ in pairs]
    return max(
        (error.abs().max() / scale).item() for error, scale in zip(errors, scales, strict=True)
    )


class Clock:
    """Tells when an interval has passed, for work that is not worth doing at every step."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether the interval has passed since this last returned True, or since the start."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is CUDA if it is available.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda'; this machine has no CUDA device, use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def seed_generators(seed: int) -> None:
    """Seed the generators of torch, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def derived_seed(*numbers: int) -> int:
    """A seed made of several numbers, such as a seed, the steps so far and a process's rank."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of this process's generators of torch, Python and NumPy."""
    _, words, pending = random.getstate()
    # environments of other packages may draw from the legacy generator
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
    """Restore the states that ``generator_states`` returned."""
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
    """The second of a pair of normal numbers, drawn with the first; NaN if it is used."""
    return torch.tensor(math.nan if normal is None else normal, dtype=torch.float64)
