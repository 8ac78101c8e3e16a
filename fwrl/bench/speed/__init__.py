"""Speed: one table of ratios, each to a peer that is timed in turns with ours in one process.

A ratio says how many times as fast as the peer ours is: 2 is twice as fast, 0.5 half as fast. Where
memory is compared, 2 is half the memory. Parity of all kernels is checked before anything is timed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fwrl.bench.benchmark import Benchmark, Measurement, Row, UnfitError
from fwrl.bench.speed.acting import measure_acting
from fwrl.bench.speed.atari import measure_atari
from fwrl.bench.speed.figure import draw_ratios
from fwrl.bench.speed.kernels import measure_kernels, measure_throughput, parity_failure
from fwrl.bench.speed.layers import (
    measure_cores,
    measure_layer,
    measure_length,
    measure_memory,
)
from fwrl.bench.speed.settings import SpeedSettings
from fwrl.bench.speed.solve import SOLVERS, measure_solve
from fwrl.bench.speed.trainers import missing, present
from fwrl.bench.speed.training import measure_training, measure_update
from fwrl.run.process import choose_device, compute_with

MEASUREMENTS: Mapping[str, Callable[[SpeedSettings, torch.device, int], Measurement]] = {
    "training": measure_training,
    "update": measure_update,
    "cores": measure_cores,
    "layer": measure_layer,
    "length": measure_length,
    "acting": measure_acting,
    "kernels": measure_kernels,
    "memory": measure_memory,
    "throughput": measure_throughput,
    "atari": measure_atari,
}


def points(settings: SpeedSettings) -> list[Row]:
    """A point for each group of rows, on a device and a number of threads.

    Whoever solves a task, which takes long, is a point.
    """
    device = choose_device(settings.device).type
    solving = [{"peer": p, "shape": t} for t in settings.solve_tasks for p in present(SOLVERS)]
    return [
        {"group": group, "device": device, "threads": threads, "seed": seed, **more}
        for seed in settings.seeds
        for group in settings.groups
        for threads in (
            settings.training_threads if group == "training" else (settings.num_threads,)
        )
        for more in (solving if group == "solve" else [{}])
    ]


def measure(settings: SpeedSettings, point: Row, _folder: Path) -> Measurement:
    """The rows of one group."""
    compute_with(int(point["threads"]))
    device, seed = torch.device(str(point["device"])), int(point["seed"])
    if point["group"] == "solve":
        trainer, task = str(point["peer"]), str(point["shape"])
        return (yield from measure_solve(settings, device, seed, trainer, task))
    return (yield from MEASUREMENTS[str(point["group"])](settings, device, seed))


def check(settings: SpeedSettings) -> list[str]:
    """Check that all kernels agree; returns a line on each peer that is left out.

    Raises:
        UnfitError: If one does not: a wrong result has no speed.
    """
    failure = parity_failure(choose_device(settings.device))
    if failure is not None:
        raise UnfitError(f"no speed without parity: {failure}")
    return list(missing().values()) if {"training", "solve"} & {*settings.groups} else []


def draw(_settings: SpeedSettings, rows: list[Row], path: Path) -> None:
    """The ratios, group by group."""
    draw_ratios(rows, path)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "repeats": 2,
        "shortest": 0.0,
        "training_threads": (1,),
        "training_envs": (2,),
        "num_steps": 16,
        "epochs": 1,
        "minibatches": 2,
        "width": 32,
        "solve_tasks": ("quickstart",),
        "solve_budget": 0.02,
        "solve_episodes": 4,
        "update_lengths": (16, 32),
        "update_envs": 2,
        "core_batch": 2,
        "core_length": 8,
        "head_sizes": (16,),
        "layer_batches": (2,),
        "layer_length": 16,
        "lengths": (16, 32),
        "acting_envs": (1, 4),
        "scans": ((2, 16, 2, 16),),
        "product": 128,
        "atari_envs": 2,
    },
    "cpu": {},
    "paper": {
        "repeats": 9,
        "shortest": 0.1,
        "core_length": 128,
        "lengths": (128, 256, 512, 1024, 2048),
        "scans": ((16, 52, 4, 32), (16, 128, 4, 32), (64, 128, 4, 32), (16, 512, 4, 64)),
    },
}

BENCHMARK = Benchmark(SpeedSettings, PRESETS, points, measure, draw, check=check, alone=True)
