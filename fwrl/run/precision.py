"""The precision of a run whose configuration leaves it to a measurement."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from agents import distributed
from fwrl.run.config import RunConfig
from fwrl.run.directory import CONFIG, read_run_config
from fwrl.run.process import choose_device, compute_with

Precision = Literal["float32", "bfloat16"]
# How many times as fast bfloat16 has to be: casts and what stays float32 take their share.
WORTH_IT = 1.5
# Rows and features of the products that are timed, and how often each is.
ROWS, LEAST_FEATURES, ROUNDS = 2048, 128, 7


def settled(config: RunConfig, directory: Path | None) -> RunConfig:
    """The configuration with the precision of its run in place of ``auto``.

    Args:
        config: The configuration that the user asks for.
        directory: The run's directory; a run that has begun there keeps its precision.

    Raises:
        ConfigError: If the directory has a configuration that cannot be read.
    """
    if config.precision != "auto":
        return config
    chosen = distributed.from_first(lambda: _chosen(config, directory).encode()).decode()
    return config.model_copy(update={"precision": chosen})


def _chosen(config: RunConfig, directory: Path | None) -> str:
    begun = directory is not None and os.path.lexists(directory / CONFIG)
    before = read_run_config(directory).precision if directory and begun else "auto"
    return faster(config) if before == "auto" else before


def faster(config: RunConfig) -> Precision:
    """The precision in which this machine multiplies matrices of the run's width faster."""
    device = choose_device(config.device)
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    compute_with(config.num_threads)
    size = max(config.stack.width, LEAST_FEATURES)
    x, weight = torch.randn(ROWS, size), torch.randn(2 * size, size)
    low, low_weight = x.bfloat16(), weight.bfloat16()
    slow = _seconds(lambda: torch.nn.functional.linear(x, weight))
    fast = _seconds(lambda: torch.nn.functional.linear(low, low_weight))
    return "bfloat16" if slow > WORTH_IT * fast else "float32"


def _seconds(run: Callable[[], object]) -> float:
    """The shortest time of a few; the first rounds also compile and warm up."""
    times: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
