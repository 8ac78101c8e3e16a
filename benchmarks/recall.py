"""Recall against the size of the memory: every core, and the rules and maps of fast weights.

``python benchmarks/recall.py [MEMORY ...] [--jobs N]`` trains one layer of each memory at several
widths and seeds, adds a line to the CSV file for each point that is not there yet, and draws all
points that are. It can be stopped and started again at any time.
"""

import argparse
import csv
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from recall_figure import draw
from rich.console import Console

from fwrl import CORES, StackConfig, state_size
from fwrl.config import validate
from fwrl.cores import AnyCoreConfig
from fwrl.sequence_model import SequenceModel
from fwrl.tasks.recall import RecallConfig, recall_batch
from fwrl.training import TrainingConfig, accuracy, train_supervised

RESULTS = Path(__file__).resolve().parent.parent / "docs/results"
# each key is written twice: what adds up its values without their order is right half the time
TASK = RecallConfig(num_keys=32, num_values=16, num_pairs=16, num_queries=16, rewrites=16)
# a rate of 0.01 learns faster, but one in two seeds of a wide gated delta rule stayed at chance
STEPS, BATCH_SIZE, LEARNING_RATE, ANSWERS = 300, 64, 5e-3, 16_384
WIDTHS, SEEDS = (16, 32, 64), 3
# points made under another setting are neither counted nor drawn
SETTING = (
    f"{TASK.num_pairs} of {TASK.num_keys} keys, {TASK.rewrites} rewritten; "
    f"{STEPS} steps of AdamW, learning rate {LEARNING_RATE}"
)

SUM = {"update_rule": "sum", "attention_normaliser": True, "normalise": "none"}
FAST_WEIGHTS: dict[str, dict[str, Any]] = {
    "delta, silu": {},
    "delta, dpfp": {"feature_map": "dpfp"},
    "sum, elu + 1": SUM | {"feature_map": "elu_plus_one"},
    "sum, dpfp": SUM | {"feature_map": "dpfp"},
    "sum, favor": SUM | {"feature_map": "favor"},
    "gated sum, silu": {"update_rule": "gated_sum"},
    "gated delta, silu": {"update_rule": "gated_delta"},
    "kda, silu": {"update_rule": "kda"},
}
# Every memory by its name in the figure: kind, and what differs from its defaults.
MEMORIES: dict[str, tuple[str, Mapping[str, Any]]] = {
    name: ("fast_weight", settings) for name, settings in FAST_WEIGHTS.items()
} | {kind: (kind, {}) for kind in CORES if kind != "fast_weight"}
# Of memories whose size does not follow the width by itself: what of it each setting is.
SHARE_OF_WIDTH: dict[str, dict[str, float]] = {
    "fast_weight_memory": {"memory_size": 1 / 4},
    "ffm": {"memory_size": 1 / 2},
    "stable_hadamard": {"memory_size": 1 / 2},
}


class Point(NamedTuple):
    """What is trained once."""

    memory: str
    width: int
    seed: int


def core_of(point: Point) -> AnyCoreConfig:
    """The configuration of the point's memory."""
    kind, settings = MEMORIES[point.memory]
    shares = SHARE_OF_WIDTH.get(kind, {})
    scaled = {name: round(share * point.width) for name, share in shares.items()}
    return validate(CORES[kind], {**settings, **scaled}, point.memory)


def measure(point: Point) -> dict[str, Any]:
    """One line of the CSV file."""
    torch.set_num_threads(1)
    torch.manual_seed(point.seed)
    core = core_of(point)
    model = SequenceModel(TASK.vocabulary, TASK.num_values, StackConfig(width=point.width), core)
    generator = torch.Generator().manual_seed(1_000 + point.seed)
    began = time.perf_counter()
    training = TrainingConfig(steps=STEPS, learning_rate=LEARNING_RATE)
    losses = train_supervised(model, lambda: recall_batch(TASK, BATCH_SIZE, generator), training)
    seconds = time.perf_counter() - began
    unseen = torch.Generator().manual_seed(2_000)
    batches = (
        recall_batch(TASK, BATCH_SIZE, unseen)
        for _ in range(ANSWERS // (BATCH_SIZE * TASK.num_queries))
    )
    return {
        "setting": SETTING,
        **point._asdict(),
        "state_size": state_size(model.stack),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "accuracy": round(accuracy(model, batches), 4),
        "loss": round(losses[-1], 4),
        "seconds": round(seconds, 1),
    }


def read(path: Path) -> list[dict[str, str]]:
    """The points of this setting that a file holds."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["setting"] == SETTING]


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one point, below a head where there is none."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def missing(path: Path, memories: list[str], seeds: int) -> list[Point]:
    """What is still to be trained; one seed of everything comes before the next."""
    there = {Point(row["memory"], int(row["width"]), int(row["seed"])) for row in read(path)}
    wanted = (
        Point(memory, width, seed)
        for seed in range(seeds)
        for width in WIDTHS
        for memory in memories
    )
    return [point for point in wanted if point not in there]


def measured(points: list[Point], jobs: int) -> Iterator[dict[str, Any]]:
    """A line for each point, in the order in which they are ready."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(measure, point) for point in points]
        for future in as_completed(futures):
            yield future.result()


def main() -> None:
    """Train what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("memories", nargs="*", metavar="MEMORY", help="; ".join(MEMORIES))
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of recall.csv and .png")
    options = parser.parse_args()
    if unknown := set(options.memories) - set(MEMORIES):
        parser.error(f"unknown {', '.join(sorted(unknown))}; choose from {'; '.join(MEMORIES)}")
    path = options.out / "recall.csv"
    points = missing(path, options.memories or list(MEMORIES), options.seeds)
    console = Console(highlight=False)
    for number, row in enumerate(measured(points, options.jobs), start=1):
        append(path, row)
        console.print(
            f"{number}/{len(points)} {row['memory']}, width {row['width']}, seed {row['seed']}: "
            f"accuracy {row['accuracy']:.3f} with {row['state_size']} numbers, {row['seconds']} s",
            soft_wrap=True,
        )
    draw(read(path), options.out / "recall.png", TASK.chance, SETTING)


if __name__ == "__main__":
    main()
