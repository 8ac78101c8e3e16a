"""Single layers: all cores, the delta layer on several sizes, and memory in use."""

from typing import Any

import torch

from fwrl.bench.benchmark import Measurement, Row
from fwrl.bench.speed.kernels import described, kernels_of
from fwrl.bench.speed.peers import (
    CELL_LOOP,
    LINEAR_MAPS,
    ONE_CALL,
    Sequences,
    bytes_saved,
    core_pass,
    linear_maps,
    peers,
    sequences,
)
from fwrl.bench.speed.settings import DELTA_NET, SpeedSettings
from fwrl.bench.speed.timing import Compared, Run, compare, in_turns, row
from fwrl.core import MemoryCore
from fwrl.cores import CORES
from fwrl.kernels import kernel_for, use_kernel
from fwrl.update_rules import UPDATE_RULES

MEBIBYTE = 2**20


def measure_cores(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Forward and backward through every core at its defaults, against all peers."""
    batch, times, width = settings.core_batch, settings.core_length, settings.width
    given = sequences(batch, times, width, settings.episode, device, seed)
    others = {name: each.run for name, each in peers(given, settings.heads).items()}
    shape = f"B {batch}, T {times}, width {width}"
    rows: list[Row] = []
    for name, config in CORES.items():
        core = config().build(width).to(device)
        runs = {name: core_pass(core, given).run, LINEAR_MAPS: linear_maps(core, given).run}
        rows += yield from _against(runs | others, name, shape, settings, device)
    return rows


def measure_layer(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """The delta layer, with the kernel chosen for it, against peers and other kernels."""
    rows: list[Row] = []
    for size in settings.head_sizes:
        for batch in settings.layer_batches:
            shape = (batch, settings.layer_length, settings.heads, size)
            core, given = _delta_layer(settings, shape[:2], size, device, seed)
            chosen = _chosen(settings.layer_length, device)
            runs = {f"delta, {chosen}": core_pass(core, given).run}
            runs[LINEAR_MAPS] = linear_maps(core, given).run
            runs |= {name: each.run for name, each in peers(given, settings.heads).items()}
            for kernel in kernels_of("delta", device):
                if kernel != chosen:
                    runs[f"kernel {kernel}"] = _by(kernel, core_pass(core, given).run)
            name = f"delta, {chosen}"
            rows += yield from _against(runs, name, described(shape), settings, device)
    return rows


def _against(
    runs: dict[str, Run], ours: str, shape: str, settings: SpeedSettings, device: torch.device
) -> Measurement:
    """Our run against each of the others."""
    times = yield from in_turns(runs, settings, device, f"{ours} {shape}")
    return [
        compare(Compared(ours, peer, shape, "ms"), times[ours], seconds)
        for peer, seconds in times.items()
        if peer != ours
    ]


def measure_length(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """The delta layer's time per step in sequences of growing length, against the shortest."""
    batch, size = settings.layer_batches[0], settings.head_sizes[0]
    runs: dict[str, Run] = {}
    for times in settings.lengths:
        core, given = _delta_layer(settings, (batch, times), size, device, seed)
        runs[f"T {times}"] = core_pass(core, given).run
    seconds = yield from in_turns(runs, settings, device, "length")
    first, *others = settings.lengths
    return [
        compare(
            Compared(
                f"delta, {_chosen(times, device)}",
                f"T {first}",
                described((batch, times, settings.heads, size)),
                "us",
            ),
            seconds[f"T {times}"],
            seconds[f"T {first}"],
            batch * times,
            batch * first,
        )
        for times in others
    ]


def measure_memory(settings: SpeedSettings, device: torch.device, seed: int) -> Measurement:
    """Memory that the delta layer keeps for its backward pass, by kernel, against LSTMs."""
    yield from ()
    rows: list[Row] = []
    batch, times = settings.layer_batches[0], settings.layer_length
    for size in settings.head_sizes:
        core, given = _delta_layer(settings, (batch, times), size, device, seed)
        shape = described((batch, times, settings.heads, size))
        others = peers(given, settings.heads)
        theirs = {name: bytes_saved(others[name]) / MEBIBYTE for name in (CELL_LOOP, ONE_CALL)}
        for kernel in kernels_of("delta", device):
            with use_kernel(kernel):
                ours = bytes_saved(core_pass(core, given)) / MEBIBYTE
            rows += [
                row(Compared(f"delta, {kernel}", name, shape, "MiB"), ours, their, [their / ours])
                for name, their in theirs.items()
            ]
    return rows


def _delta_layer(
    settings: SpeedSettings, over: tuple[int, int], size: int, device: torch.device, seed: int
) -> tuple[MemoryCore[Any], Sequences]:
    """The default core with heads of this size, and the sequences that it reads."""
    batch, times = over
    width = settings.heads * size
    torch.manual_seed(seed)
    core = DELTA_NET.model_copy(update={"heads": settings.heads}).build(width).to(device)
    return core, sequences(batch, times, width, settings.episode, device, seed)


def _chosen(times: int, device: torch.device) -> str:
    sequence = torch.zeros(1, times, 1, 1, device=device)
    return kernel_for(UPDATE_RULES["delta"], sequence)


def _by(kernel: str, run: Run) -> Run:
    def forced() -> None:
        with use_kernel(kernel):
            run()

    return forced
