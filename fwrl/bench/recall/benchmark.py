"""Recall against the size of the memory: every core, and the rules and maps of fast weights.

Each point trains a stack of one memory at one width on associative recall and measures its answers
to sequences that it has not seen. Two tasks: the latest of two values of each key, where a memory
must replace what it holds, and the multi-query recall of Arora et al. (2023), where it need not.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fwrl import StackConfig, state_size
from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings, one_of
from fwrl.bench.recall.figure import draw_families, draw_pairs
from fwrl.bench.recall.memories import EVERY_CORE, MEMORIES, FastWeightSizes, core_of
from fwrl.bench.recall.multi_query import MultiQueryConfig, multi_query_batch
from fwrl.bench.recall.task import RecallConfig, recall_batch
from fwrl.bench.sequence_model import Batch, SequenceModel, count_parameters
from fwrl.bench.supervised import Learner, TrainingConfig, accuracy, cross_entropy
from fwrl.run.process import Clock, choose_device

Task = RecallConfig | MultiQueryConfig
# Seconds between two looks at the loss.
REPORT_INTERVAL = 0.5


class RecallSettings(Settings):
    """The memories, the task, and the training."""

    axes: ClassVar[tuple[str, ...]] = ("seeds", "memories", "widths", "sizes", "learning_rates")

    memories: Annotated[tuple[str, ...], one_of(MEMORIES)] = EVERY_CORE
    """Memories, by their names in the figure."""
    widths: tuple[PositiveInt, ...] = (16, 32, 64)
    """Widths of the stack; every memory is trained at each."""
    layers: PositiveInt = 1
    """Layers of the stack."""
    fast_weights: FastWeightSizes = FastWeightSizes()
    """Sizes of the memories of kind ``fast_weight``."""
    task: Annotated[Task, Field(discriminator="kind")] = RecallConfig()
    """The sequences, by ``kind``: ``latest_value`` or ``multi_query``."""
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = ()
    """Lengths and numbers of pairs of a multi-query task, in place of the task's own."""
    training: TrainingConfig = TrainingConfig()
    """Updates, batches, optimiser and learning rate."""
    learning_rates: tuple[PositiveFloat, ...] = ()
    """Rates that are all tried; the figure shows the best of each memory. Empty: the training's."""
    answers: PositiveInt = 16_384
    """Number of answers by which the accuracy is measured."""

    @model_validator(mode="after")
    def _fitting(self) -> "RecallSettings":
        if self.sizes and isinstance(self.task, RecallConfig):
            raise ValueError("sizes are of a multi_query task; use task.num_pairs for this one")
        for length, pairs in self.sizes:
            MultiQueryConfig.model_validate(
                self.task.model_dump() | {"length": length, "num_pairs": pairs}
            )
        return self


def points(settings: RecallSettings) -> list[Row]:
    """Every combination with one seed before the next seed."""
    task = settings.task
    return [
        {
            "memory": memory,
            "width": width,
            "length": length,
            "pairs": pairs,
            "learning_rate": rate,
            "seed": seed,
        }
        for seed in settings.seeds
        for length, pairs in settings.sizes or ((task.length, task.num_pairs),)
        for width in settings.widths
        for memory in settings.memories
        for rate in settings.learning_rates or (settings.training.learning_rate,)
    ]


def measure(settings: RecallSettings, point: Row, folder: Path) -> Measurement:
    """Train, continuing from a checkpoint if there is one, then test."""
    seed, width = int(point["seed"]), int(point["width"])
    torch.manual_seed(seed)
    device, task = choose_device(settings.device), task_of(settings, point)
    core = core_of(str(point["memory"]), width, settings.fast_weights)
    stack = StackConfig(width=width, layers=settings.layers)
    model = SequenceModel(task.vocabulary, task.num_classes, stack, core).to(device)
    rate = {"learning_rate": float(point["learning_rate"])}
    training = settings.training.model_copy(update=rate)
    learner = Learner(model, training)
    generator = torch.Generator(device).manual_seed(1_000 + seed)
    new_batch = batches(task, training.batch_size, generator)
    learner.restore(folder, generator)
    saving, reporting = Clock(settings.save_every), Clock(REPORT_INTERVAL)
    loss = torch.tensor(torch.nan)
    model.train()
    while learner.step < training.steps:
        # before the update: the last one is never saved, so that there is always a loss to report
        if saving.due():
            learner.save(folder, generator)
        loss = cross_entropy(model, new_batch())
        learner.update(loss)
        if reporting.due():
            yield Progress(learner.step, training.steps, f"loss {loss.item():.3f}")
    unseen = batches(task, training.batch_size, torch.Generator(device).manual_seed(2_000))
    asked = training.batch_size * task.num_queries
    tests = (unseen() for _ in range(max(settings.answers // asked, 1)))
    return [
        {
            "state_size": state_size(model.stack),
            "parameters": count_parameters(model),
            "accuracy": round(accuracy(model, tests), 4),
            "loss": round(loss.item(), 4),
        }
    ]


def task_of(settings: RecallSettings, point: Row) -> Task:
    """The task of a point: its sequences have the length and the pairs of the point."""
    if isinstance(settings.task, RecallConfig):
        return settings.task
    size = {"length": point["length"], "num_pairs": point["pairs"]}
    return settings.task.model_copy(update=size)


def batches(task: Task, batch_size: int, generator: torch.Generator) -> Callable[[], Batch]:
    """A function that makes a new batch each time it is called."""
    if isinstance(task, RecallConfig):
        return lambda: recall_batch(task, batch_size, generator)
    return lambda: multi_query_batch(task, batch_size, generator)


def draw(settings: RecallSettings, rows: list[Row], path: Path) -> None:
    """Accuracy against the size of the memory."""
    task, training = settings.task, settings.training
    if isinstance(task, MultiQueryConfig):
        draw_pairs(rows, path, task.chance)
        return
    setting = (
        f"{task.num_pairs} of {task.num_keys} keys, {task.rewrites} rewritten; "
        f"{training.steps} steps of AdamW, learning rate {training.learning_rate:g}"
    )
    draw_families(rows, path, task.chance, setting)


# each key is written twice: a memory that adds up values without their order is right half the time
TWICE = {
    "kind": "latest_value",
    "num_keys": 32,
    "num_values": 16,
    "num_pairs": 16,
    "num_queries": 16,
    "rewrites": 16,
}
MULTI_QUERY = ("delta, silu", "gated delta, silu", "sum, silu", "sum, dpfp", "sum, elu + 1", "none")

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "memories": ("delta, silu", "sum, elu + 1", "lru", "none"),
        "widths": (16, 32),
        "task": TWICE | {"num_pairs": 4, "num_queries": 4, "rewrites": 4},
        "training": {"steps": 20, "batch_size": 16, "learning_rate": 5e-3},
        "answers": 256,
    },
    "cpu": {
        "task": TWICE,
        # a rate of 0.01 learns faster, but one in two seeds of a wide gated delta rule stayed
        # at chance
        "training": {"steps": 300, "batch_size": 64, "learning_rate": 5e-3},
        "seeds": (0, 1, 2),
    },
    "mqar": {
        "memories": MULTI_QUERY,
        "widths": (64,),
        "fast_weights": {"heads": 1, "key_features": 24, "value_size": 5, "short_convolution": 4},
        "task": {"kind": "multi_query", "vocabulary_size": 128, "passes": 4},
        "sizes": ((120, 12),),
        "training": {"steps": 2500, "batch_size": 64},
        "learning_rates": (3e-3,),
        "seeds": (0, 1, 2),
    },
    # the published recipe makes an epoch of 100,000 sequences, 64 times, with batches of 128 to
    # 512, stops at an accuracy of 0.99, and has four layers without feed-forward networks
    "paper": {
        "memories": MULTI_QUERY,
        "widths": (64, 128, 256, 512),
        "layers": 2,
        "fast_weights": {"heads": 1, "short_convolution": 4},
        "task": {"kind": "multi_query"},
        "sizes": ((64, 4), (128, 8), (256, 16), (512, 64)),
        "training": {
            "steps": 25_000,
            "batch_size": 256,
            "weight_decay": 0.1,
            "max_grad_norm": None,
        },
        "learning_rates": (1e-4, 4.6e-4, 2.2e-3, 1e-2),
    },
}

BENCHMARK = Benchmark(RecallSettings, PRESETS, points, measure, draw)
