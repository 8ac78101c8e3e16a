"""Retrieval, setting 1 of Schlag et al. (2021a): how many pairs can a memory hold?

Each point trains one memory on sequences of S pairs until its loss is at most ``solved``, or has
not fallen for ``patience`` evaluations. A published loss is the lowest of one training, from the
authors' own logs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings, grid, one_of
from fwrl.bench.results import read_published
from fwrl.bench.retrieval.figure import draw_losses
from fwrl.bench.retrieval.model import MethodConfig, RetrievalModel
from fwrl.bench.retrieval.task import RetrievalBatch, evaluation_batch, training_batch
from fwrl.bench.supervised import Learner, TrainingConfig
from fwrl.run.process import Clock, choose_device

METHODS: dict[str, MethodConfig] = {
    "softmax": MethodConfig(rule="attention"),
    "sum, elu + 1": MethodConfig(rule="sum", feature_map="elu_plus_one"),
    **{f"sum, dpfp {nu}": MethodConfig(rule="sum", feature_map="dpfp", nu=nu) for nu in (1, 2, 3)},
    **{
        f"sum, favor {m}": MethodConfig(rule="sum", feature_map="favor_hyperbolic", num_features=m)
        for m in (64, 128, 512)
    },
    "delta, elu + 1": MethodConfig(feature_map="elu_plus_one"),
    "delta, dpfp 1": MethodConfig(feature_map="dpfp", nu=1),
    "delta, dpfp 2": MethodConfig(feature_map="dpfp", nu=2),
    "delta, favor 64": MethodConfig(feature_map="favor_hyperbolic", num_features=64),
    "delta, favor 128": MethodConfig(feature_map="favor_hyperbolic", num_features=128),
    "clipped delta, dpfp 1": MethodConfig(rule="clipped_delta", feature_map="dpfp"),
    "clipped delta, tanh": MethodConfig(
        rule="clipped_delta", feature_map="tanh", batch_size=128, learning_rate=1e-4
    ),
}
Methods = Annotated[tuple[str, ...], one_of(METHODS)]
# The published comparison: up to "delta, dpfp 1".
CAPACITY = tuple(METHODS)[:10]


class RetrievalSettings(Settings):
    """The defaults are the published recipe."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "sizes", "seeds")
    replacement: ClassVar[bool] = False

    methods: Methods = CAPACITY
    """Memories, by the names of ``METHODS`` in fwrl/bench/retrieval/benchmark.py."""
    sizes: tuple[PositiveInt, ...] = tuple(range(20, 601, 20))
    """S: the number of different keys, and of different values."""
    seeds: tuple[int, ...] = (1,)
    """Each point is measured once with each seed."""
    key_size: int = Field(default=64, ge=2)
    """Size of keys and queries before the feature map."""
    max_steps: PositiveInt = 100_000
    """Updates after which a training ends in any case."""
    evaluate_every: PositiveInt = 100
    """Updates between two evaluations."""
    patience: PositiveInt = 11
    """Evaluations without a new best loss after which a training ends."""
    solved: PositiveFloat = 0.001
    """The loss at which a training ends; an answer of zeros has a loss of 0.5."""
    evaluation_sequences: PositiveInt = 20
    """New sequences for each evaluation."""
    evaluation_queries: PositiveInt = 200
    """Most queries of each sequence in an evaluation."""

    def evaluation_length(self, num_keys: int) -> int:
        """Pairs in a sequence that is evaluated."""
        return num_keys


def points(settings: RetrievalSettings) -> list[Row]:
    """Each size for all methods before the next size; one seed before the next."""
    return grid({"method": settings.methods, "keys": settings.sizes, "seed": settings.seeds})


def measure(settings: RetrievalSettings, point: Row, folder: Path) -> Measurement:
    """Train until the task is solved or the loss stops falling."""
    method, keys = METHODS[str(point["method"])], int(point["keys"])
    device = choose_device(settings.device)
    torch.manual_seed(int(point["seed"]))
    model = RetrievalModel(method, keys, settings.key_size).to(device)
    generator = torch.Generator(device).manual_seed(int(point["seed"]))
    learner = Learner(
        model,
        TrainingConfig(
            optimizer="adam",
            learning_rate=method.learning_rate,
            schedule="constant",
            max_grad_norm=None,
        ),
    )
    losses: list[float] = [row["loss"] for row in learner.restore(folder, generator)[1]]
    saving = Clock(settings.save_every)
    while learner.step < settings.max_steps and not _ended(settings, losses):
        batch = training_batch(keys, settings.replacement, method.batch_size, generator)
        learner.update(squared_error(model(batch), batch).mean())
        if learner.step % settings.evaluate_every == 0:
            losses.append(_evaluate(settings, model, keys, generator))
            yield Progress(learner.step, settings.max_steps, f"loss {min(losses):.4f}")
            if saving.due():
                learner.save(folder, generator, rows=[{"loss": loss} for loss in losses])
    return [{"loss": round(min(losses), 6), "steps": learner.step}]


def squared_error(read: Float[Tensor, "B Q S"], batch: RetrievalBatch) -> Float[Tensor, "B Q"]:
    """Half the squared distance to the one-hot target."""
    return (read - F.one_hot(batch.targets, read.shape[-1])).square().sum(dim=-1) / 2


@torch.no_grad()
def _evaluate(
    settings: RetrievalSettings, model: RetrievalModel, keys: int, generator: torch.Generator
) -> float:
    """The mean over sequences of their mean error over queries."""
    batch = evaluation_batch(
        keys,
        settings.replacement,
        settings.evaluation_length(keys),
        settings.evaluation_sequences,
        settings.evaluation_queries,
        generator,
    )
    errors = squared_error(model(batch), batch) * batch.asked
    return (errors.sum(dim=1) / batch.asked.sum(dim=1)).mean().item()


def _ended(settings: RetrievalSettings, losses: Sequence[float]) -> bool:
    """Whether the task is solved, or no new best loss came for too long."""
    if not losses:
        return False
    best = losses.index(min(losses))
    out_of_patience = len(losses) - 1 - best >= settings.patience
    return losses[best] <= settings.solved or out_of_patience


def published_losses(name: str) -> list[Row]:
    """The losses of a published table with a line for each size and a column for each method."""
    return [
        {"method": method, "keys": row["keys"], "loss": float(loss)}
        for row in read_published("retrieval", name)
        for method, loss in row.items()
        if method != "keys"
    ]


PUBLISHED = published_losses("published.csv")


def draw(settings: RetrievalSettings, rows: list[Row], path: Path) -> None:
    """Loss against the number of pairs, ours and published."""
    title = f"Retrieval of one of S pairs, keys of {settings.key_size} before the feature map"
    draw_losses(rows, PUBLISHED, path, title, settings.solved)


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "methods": ("sum, elu + 1", "sum, dpfp 1", "delta, dpfp 1"),
        "sizes": (10, 20),
        "key_size": 16,
        "max_steps": 200,
    },
    "cpu": {
        # random features all fail alike: one number of them is enough
        "methods": (*CAPACITY[:6], "delta, dpfp 1"),
        "sizes": tuple(range(40, 601, 40)),
        "max_steps": 7000,
    },
    "paper": {},
}

BENCHMARK = Benchmark(RetrievalSettings, PRESETS, points, measure, draw, PUBLISHED)
