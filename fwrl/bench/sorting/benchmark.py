"""Sorting by frequency: which memory still counts what has left the window (Martins et al. 2022).

A model reads a long sequence segment by segment, and is trained on the answers at its end alone: no
gradient reaches further back than the last segment, as in the paper.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings, one_of
from fwrl.bench.sequence_model import LINEAR_ATTENTION, Batch, SequenceModel, core_config, sizes_of
from fwrl.bench.sorting.figure import draw
from fwrl.bench.sorting.task import SortingConfig, by_last_window, sorting_batch
from fwrl.bench.supervised import Learner, TrainingConfig
from fwrl.cores import CoreConfig
from fwrl.run.process import Clock, choose_device
from fwrl.stack import StackConfig

# The baseline without a model: it counts as many symbols as a stack of windows can see.
LAST_WINDOW = "last_window"
# The memories that are compared: differences from the defaults of their cores.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "infinite_former_sticky": {"kind": "infinite_former", "sticky": True},
    "infinite_former": {"kind": "infinite_former"},
    "window_attention": {"kind": "window_attention"},
    "sum": LINEAR_ATTENTION | {"feature_map": "elu_plus_one"},
    "delta": {},
    "gated_delta": {"update_rule": "gated_delta"},
    "lstm": {"kind": "lstm"},
    "none": {"kind": "none"},
}


class SortingSettings(Settings):
    """The memories, the task, and the training."""

    axes: ClassVar[tuple[str, ...]] = ("seeds", "methods", "lengths")

    methods: Annotated[tuple[str, ...], one_of(METHODS)] = (
        "infinite_former_sticky", "infinite_former", "window_attention", "sum", "delta",
    )  # fmt: skip
    """Memories; a count of the last window is always added."""
    lengths: tuple[PositiveInt, ...] = (512,)
    """Symbols before the separator; a model is trained for each."""
    symbols: PositiveInt = 10
    """Number of different symbols."""
    stack: StackConfig = StackConfig(width=64, layers=2)
    """The layers around each memory."""
    heads: PositiveInt = 4
    """Heads of fast weights and attention; a divisor of the stack's width."""
    window: PositiveInt = 32
    """Time steps that stay in the infinite-former's window when a segment leaves it."""
    segment: PositiveInt = 32
    """Time steps that leave it together. Window attention sees ``window + segment``."""
    basis_functions: PositiveInt = 64
    """Basis functions of the infinite-former's continuous memory."""
    ridge: float = 1.0
    """Ridge penalty of the infinite-former's regression; published: 1."""
    input_gate: bool = False
    """Whether the infinite-former has an input gate, as the published one does."""
    backpropagated: PositiveInt = 64
    """Time steps at the end through which the gradient flows, answers included."""
    training: TrainingConfig = TrainingConfig()
    """Updates, batches, optimiser and learning rate."""
    test_sequences: PositiveInt = 800
    """Sequences of the test; never trained on."""

    @model_validator(mode="after")
    def _possible(self) -> "SortingSettings":
        if self.backpropagated < self.symbols:
            raise ValueError(
                f"backpropagated is {self.backpropagated}, but the answers alone take "
                f"{self.symbols} times; use that or more"
            )
        return self

    @property
    def reach(self) -> int:
        """Time steps that all layers of windows together can look back."""
        return self.stack.layers * (self.window + self.segment - 1) + 1


def core_of(settings: SortingSettings, method: str) -> CoreConfig:
    """The memory of a method."""
    sizes = {
        "heads": settings.heads,
        "window": settings.window + settings.segment * (method == "window_attention"),
        "segment": settings.segment,
        "basis_functions": settings.basis_functions,
        "samples": settings.basis_functions,
        "ridge": settings.ridge,
        "input_gate": settings.input_gate,
    }
    return core_config(method, METHODS[method], sizes)


def points(settings: SortingSettings) -> list[Row]:
    """Every length and method with one seed before the next."""
    return [
        {"length": length, "method": method, "seed": seed}
        for seed in settings.seeds
        for length in settings.lengths
        for method in (LAST_WINDOW, *settings.methods)
    ]


def measure(settings: SortingSettings, point: Row, folder: Path) -> Measurement:
    """Train one memory, and test it on sequences that it has not seen."""
    method, seed = str(point["method"]), int(point["seed"])
    task = SortingConfig(symbols=settings.symbols, length=int(point["length"]))
    device = choose_device(settings.device)
    unseen = torch.Generator(device).manual_seed(2_000_000 + seed)
    if method == LAST_WINDOW:
        yield Progress(0, 1)
        # the window at the separator, which takes one of its places
        reach = settings.reach - 1
        right = [by_last_window(task, b, reach) for b in _test_batches(settings, task, unseen)]
        return [_row(torch.cat(right), {"window": reach})]

    torch.manual_seed(seed)
    core = core_of(settings, method)
    model = SequenceModel((task.vocabulary,), task.symbols, settings.stack, core).to(device)
    learner, saving = Learner(model, settings.training), Clock(settings.save_every)
    generator = torch.Generator(device).manual_seed(1_000_000 + seed)
    learner.restore(folder, generator)
    model.train()
    while learner.step < settings.training.steps:
        batch = sorting_batch(task, settings.training.batch_size, generator)
        logits = last_logits(model, batch.tokens, settings.backpropagated)
        targets = batch.targets[:, -settings.backpropagated :]
        error = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        learner.update(error)
        if saving.due():
            learner.save(folder, generator)
        yield Progress(learner.step, settings.training.steps, f"loss {error.item():.3f}")
    model.eval()
    right: list[Tensor] = []
    for batch in _test_batches(settings, task, unseen):
        right.append(_right(model, batch, settings))
        yield Progress(learner.step, settings.training.steps, "testing")
    return [_row(torch.cat(right), sizes_of(model))]


def last_logits(
    model: SequenceModel, tokens: Int[Tensor, "B T"], backpropagated: int
) -> Float[Tensor, "B last classes"]:
    """The logits of the last segment; those before are read one by one, without a gradient."""
    state = model.initial_state(tokens.shape[0], tokens.device)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    first = (tokens.shape[1] - 1) % backpropagated + 1
    lengths = [first] + [backpropagated] * ((tokens.shape[1] - first) // backpropagated)
    logits = torch.empty(0)
    for end, length in zip(torch.tensor(lengths).cumsum(0).tolist(), lengths, strict=True):
        now = slice(end - length, end)
        with torch.set_grad_enabled(torch.is_grad_enabled() and end == tokens.shape[1]):
            logits, state = model(tokens[:, now], state, starts[:, now])
    return logits


@torch.no_grad()
def _right(
    model: SequenceModel, batch: Batch, settings: SortingSettings
) -> Float[Tensor, "B symbols"]:
    guess = last_logits(model, batch.tokens, settings.backpropagated).argmax(-1)
    return (guess == batch.targets[:, -guess.shape[1] :])[:, -settings.symbols :].float()


def _test_batches(
    settings: SortingSettings, task: SortingConfig, generator: torch.Generator
) -> list[Batch]:
    size, left = settings.training.batch_size, settings.test_sequences
    sizes = [size] * (left // size) + [left % size] * (left % size > 0)
    return [sorting_batch(task, each, generator) for each in sizes]


def _row(right: Float[Tensor, "sequences symbols"], about: Row) -> Row:
    """The accuracy, its standard error over sequences, and the accuracy of each answer."""
    by_sequence = right.mean(dim=1)
    each = {f"answer_{i}": round(a, 4) for i, a in enumerate(right.mean(dim=0).tolist(), start=1)}
    return {
        "accuracy": round(by_sequence.mean().item(), 4),
        "error": round(by_sequence.std().item() / len(right) ** 0.5, 5),
        **about,
        **each,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "methods": ["infinite_former_sticky", "window_attention", "sum"],
        "lengths": [64],
        "symbols": 4,
        "stack": {"width": 16, "layers": 1},
        "heads": 2,
        "window": 8,
        "segment": 8,
        "basis_functions": 16,
        "backpropagated": 16,
        "training": {"steps": 20, "batch_size": 16},
        "test_sequences": 32,
    },
    "cpu": {
        "seeds": [0, 1, 2],
        "training": {"steps": 1000, "batch_size": 16, "learning_rate": 3e-3},
    },
    "paper": {
        "seeds": [0, 1, 2],
        "methods": ["infinite_former_sticky", "infinite_former", "window_attention", "sum"],
        "lengths": [4000, 8000, 16000],
        "symbols": 20,
        "stack": {"width": 300, "layers": 3, "feed_forward": 300},
        "heads": 6,
        "window": 1024,
        "segment": 1024,
        "basis_functions": 512,
        "input_gate": True,
        "backpropagated": 1024,
        "training": {"steps": 20_000, "batch_size": 8, "optimizer": "adam", "learning_rate": 2e-4},
    },
}
PUBLISHED: list[Row] = [
    {"length": 4000, "finding": "Transformer-XL is best or equal: its memory holds nearly all"},
    {"length": 8000, "finding": "infinite-former above Compressive Transformer and TXL"},
    {"length": 16000, "finding": "infinite-former clearly best, TXL degrades strongly"},
]

BENCHMARK = Benchmark(SortingSettings, PRESETS, points, measure, draw, PUBLISHED)
