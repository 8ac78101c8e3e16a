"""Shared by code execution and ListOps: the memories, the published recipe, and its training.

The recipe of Irie et al. (2021): a fixed set of examples, many epochs, and the weights of the best
validation. Accuracy is the share of sequences whose answers are all right.

Note:
    Unlike there, the residual stack has GELU and a last layer normalisation, and the LSTM stands
    in it like every other memory.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Measurement, Progress, Row, Settings, one_of
from fwrl.bench.sequence_model import LINEAR_ATTENTION, Batch, SequenceModel, core_config, sizes_of
from fwrl.bench.supervised import Learner, TrainingConfig, answers, cross_entropy
from fwrl.cores import CORES, CoreConfig
from fwrl.run.process import Clock, choose_device
from fwrl.stack import StackConfig

ELU = {"feature_map": "elu_plus_one"}
# Memories by their names in the tables; any kind of core is a method too, with its defaults.
METHODS: dict[str, Mapping[str, Any]] = {
    **{kind: {"kind": kind} for kind in CORES},
    "delta": ELU | {"normalise": "sum"},
    # without any normalisation, as the published code has it
    "sum": ELU | {"update_rule": "sum", "normalise": "none"},
    "sum, normalised": ELU | LINEAR_ATTENTION,
    # keys and queries of unit length, and a delta rule that can reflect (Yang et al. 2024a)
    "delta, silu": {"max_beta": 2},
    "sum, silu": {"update_rule": "sum"},
    "delta rnn": {"kind": "delta_rnn"},
    "recurrent delta": {"kind": "recurrent_delta"},
}
# One generator draws the data for all memories and seeds, as published.
DATA_SEED = 42
# Sequences that are evaluated at once.
EVALUATION_BATCH = 250
# Updates between two looks at the loss.
LOSS_INTERVAL = 10


class AlgorithmicSettings(Settings):
    """The defaults are the published recipe."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "seeds")

    methods: Annotated[tuple[str, ...], one_of(METHODS)] = (
        "delta",
        "sum",
        "lstm",
        "recurrent delta",
        "delta rnn",
        "none",
    )
    """Memories: ``delta``, ``sum``, ``sum, normalised``, ``delta, silu``, ``sum, silu``,
    ``recurrent delta``, ``delta rnn``, or any kind of ``fwrl list cores`` with its defaults."""
    stack: StackConfig = StackConfig(width=256, layers=4, feed_forward=1024)
    """The layers around each memory."""
    heads: PositiveInt = 16
    """Heads of the memories that have heads."""
    short_convolution: NonNegativeInt = 0
    """Time steps spanned by a causal convolution of the queries, keys and values of ``delta`` and
    the sums; published: 0. With 4 they learn in a fraction of the updates, because the memory need
    not bring the parts of a statement together."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of the layers' outputs and of hidden units."""
    training: TrainingConfig = TrainingConfig(
        steps=31_400,
        batch_size=64,
        optimizer="adam",
        learning_rate=3e-4,
        betas=(0.9, 0.995),
        epsilon=1e-9,
        schedule="constant",
        max_grad_norm=None,
    )
    """The optimiser and its updates; published: 200 epochs of 157 batches."""
    training_examples: NonNegativeInt = 10_000
    """Fixed training set, in another order each epoch; 0: every batch is new."""
    validation_examples: PositiveInt = 1_000
    """Examples by which the weights to test are chosen."""
    test_examples: PositiveInt = 1_000
    """Examples on which the chosen weights are tested."""
    evaluate_every: PositiveInt = 157
    """Updates between two validations."""


# Presets of both benchmarks: some minutes on one processor core, and some seconds.
SMALL: Mapping[str, Any] = {
    "stack": {"width": 64, "layers": 2, "feed_forward": 256},
    "heads": 4,
    "dropout": 0.0,
    "training_examples": 0,
    "evaluate_every": 500,
    "training": {
        "steps": 5_000,
        "batch_size": 32,
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "betas": (0.9, 0.995),
        "epsilon": 1e-9,
        "warmup_steps": 200,
        "schedule": "cosine",
        "max_grad_norm": 1.0,
    },
}
TINY: Mapping[str, Any] = {
    **SMALL,
    "stack": {"width": 32, "layers": 1, "feed_forward": 64},
    "validation_examples": 100,
    "test_examples": 100,
    "evaluate_every": 20,
    "training": {"steps": 60, "batch_size": 16, "learning_rate": 1e-2},
}


class Task(NamedTuple):
    """The sequences to learn and the extra columns of its results."""

    vocabulary: tuple[int, ...]
    num_classes: int
    make_batch: Callable[[int, torch.Generator], Batch]
    # further columns, from predictions and targets
    details: Callable[[Tensor, Tensor], dict[str, float]]


def core_of(settings: AlgorithmicSettings, method: str) -> CoreConfig:
    """The memory of a method."""
    sizes = {"heads": settings.heads, "short_convolution": settings.short_convolution}
    return core_config(method, METHODS[method], sizes)


def train_and_test(
    settings: AlgorithmicSettings, task: Task, method: str, seed: int, folder: Path
) -> Measurement:
    """A row for each validation, and one for the test of the best validated weights."""
    device = choose_device(settings.device)
    data = torch.Generator().manual_seed(DATA_SEED)
    examples, validation, test = (
        task.make_batch(size, data)
        for size in (
            max(settings.training_examples, 1),
            settings.validation_examples,
            settings.test_examples,
        )
    )
    torch.manual_seed(seed)
    core = core_of(settings, method)
    model = SequenceModel(
        task.vocabulary, task.num_classes, settings.stack, core, settings.dropout
    ).to(device)
    learner = Learner(model, settings.training)
    generator = torch.Generator().manual_seed(seed)
    best, rows = learner.restore(folder, generator, _copy(model))
    saving, total, loss = Clock(settings.save_every), settings.training.steps, math.nan
    while learner.step < total:
        if settings.training_examples:
            batch = epoch_batch(examples, settings.training.batch_size, learner.step, seed)
        else:
            batch = task.make_batch(settings.training.batch_size, generator)
        model.train()
        error = cross_entropy(model, _to(batch, device))
        learner.update(error)
        if learner.step % LOSS_INTERVAL == 1:
            loss = error.item()
        if learner.step % settings.evaluate_every == 0 or learner.step == total:
            found = _evaluate(model, task, validation)
            rows.append({"step": learner.step, **{f"validation_{k}": v for k, v in found.items()}})
            if found["accuracy"] >= max(float(row["validation_accuracy"]) for row in rows):
                best = _copy(model)
        if saving.due():
            learner.save(folder, generator, best, rows)
        yield Progress(learner.step, total, _note(loss, rows))
    model.load_state_dict(best)
    return [*rows, {"step": total, **sizes_of(model), **_evaluate(model, task, test)}]


def epoch_batch(examples: Batch, batch_size: int, step: int, seed: int) -> Batch:
    """The batch of an update: each epoch has every example once, in its own order.

    The last batch of an epoch may be smaller. Padding behind the longest sequence is cut off.
    """
    tokens, targets = examples
    epoch, place = divmod(step, math.ceil(len(tokens) / batch_size))
    order = torch.randperm(
        len(tokens), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    )
    chosen = order[place * batch_size : (place + 1) * batch_size]
    tokens, targets = tokens[chosen], targets[chosen]
    length = int((tokens >= 0).sum(dim=1).max())
    return Batch(tokens[:, :length], targets[:, :length])


def whole_sequences_right(
    predictions: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """The share of sequences whose answers are all right."""
    return ((predictions == targets) | (targets < 0)).all(dim=1).float().mean()


@torch.no_grad()
def _evaluate(model: SequenceModel, task: Task, batch: Batch) -> dict[str, float]:
    """Accuracy, loss and the details of the task, over all the batch."""
    model.eval()
    device = next(model.parameters()).device
    predictions = torch.zeros_like(batch[1])
    total = 0.0
    for rows in torch.arange(len(predictions)).split(EVALUATION_BATCH):
        tokens, targets = (each[rows].to(device) for each in batch)
        logits = answers(model, tokens)
        predictions[rows] = logits.argmax(dim=-1).cpu()
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    targets = batch[1]
    found = {
        "accuracy": whole_sequences_right(predictions, targets).item(),
        "loss": total / (targets >= 0).sum().item(),
        **task.details(predictions, targets),
    }
    return {name: round(value, 4) for name, value in found.items()}


def _copy(model: SequenceModel) -> dict[str, Tensor]:
    return {name: leaf.detach().clone() for name, leaf in model.state_dict().items()}


def _to(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.tokens.to(device), batch.targets.to(device))


def _note(loss: float, rows: list[Row]) -> str:
    accuracy = f", validation accuracy {rows[-1]['validation_accuracy']:.3f}" if rows else ""
    # right after a restart there is no loss yet
    return accuracy.removeprefix(", ") if math.isnan(loss) else f"loss {loss:.3f}{accuracy}"
