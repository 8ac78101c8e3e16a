"""Sorting by frequency: which memory still counts what has left the window (Martins et al. 2022).

A model reads a long sequence piece by piece, and is trained on the answers at its end alone: no
gradient reaches further back than the last piece, as in the paper.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings
from fwrl.bench.sequence_model import SequenceModel
from fwrl.bench.sorting.figure import draw
from fwrl.bench.sorting.task import SortingBatch, SortingConfig, by_last_window, sorting_batch
from fwrl.bench.supervised import Learner, TrainingConfig
from fwrl.config import validate
from fwrl.core import state_size
from fwrl.cores import CORES, CoreConfig
from fwrl.run.process import Clock, choose_device
from fwrl.stack import StackConfig

# What answers without a model: it counts as many symbols as a stack of windows can see.
LAST_WINDOW = "last_window"


class SortingSettings(Settings):
    """What is measured, and with what."""

    axes: ClassVar[tuple[str, ...]] = ("seeds", "methods", "lengths")

    methods: tuple[str, ...] = (
        "infinite_former_sticky", "infinite_former", "window_attention", "sum", "delta",
    )  # fmt: skip
    """Memories, by their names in ``METHODS``; a count of the last window is always added."""
    lengths: tuple[PositiveInt, ...] = (512,)
    """Symbols before the separator; a model is trained for each."""
    symbols: PositiveInt = 10
    """How many different ones."""
    stack: StackConfig = StackConfig(width=64, layers=2)
    """The layers around each memory."""
    heads: PositiveInt = 4
    """Of fast weights and attention; a divisor of the stack's width."""
    window: PositiveInt = 32
    """How many times the infinite-former is left with when a segment leaves its window."""
    segment: PositiveInt = 32
    """How many times leave it together. Windowed attention sees ``window + segment``."""
    basis_functions: PositiveInt = 64
    """Of the infinite-former."""
    ridge: float = 1.0
    """Of the infinite-former; 1 in the published sorting."""
    input_gate: bool = False
    """Whether the infinite-former gates what it takes in, as the published one does."""
    backpropagated: PositiveInt = 64
    """Times at the end through which the gradient flows, the answers among them."""
    training: TrainingConfig = TrainingConfig()
    """Updates, batches, optimiser and learning rate."""
    test_sequences: PositiveInt = 800
    """To measure on; never trained on."""

    @model_validator(mode="after")
    def _possible(self) -> "SortingSettings":
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods: {method!r} is not one of {', '.join(METHODS)}")
        if self.backpropagated < self.symbols:
            raise ValueError(
                f"backpropagated is {self.backpropagated}, but the answers alone take "
                f"{self.symbols} times; use that or more"
            )
        return self

    @property
    def reach(self) -> int:
        """How many times back all layers of windows together can see."""
        return self.stack.layers * (self.window + self.segment - 1) + 1


def _infinite_former(settings: SortingSettings) -> dict[str, Any]:
    return {
        "kind": "infinite_former",
        "heads": settings.heads,
        "window": settings.window,
        "segment": settings.segment,
        "basis_functions": settings.basis_functions,
        "samples": settings.basis_functions,
        "ridge": settings.ridge,
        "input_gate": settings.input_gate,
    }


SUM = {
    "kind": "fast_weight",
    "update_rule": "sum",
    "feature_map": "elu_plus_one",
    "normalise": "none",
    "attention_normaliser": True,
}
# The memories that are compared.
METHODS: Mapping[str, Callable[[SortingSettings], dict[str, Any]]] = {
    "infinite_former_sticky": lambda settings: _infinite_former(settings) | {"sticky": True},
    "infinite_former": _infinite_former,
    "window_attention": lambda settings: {
        "kind": "window_attention",
        "heads": settings.heads,
        "window": settings.window + settings.segment,
    },
    "sum": lambda settings: SUM | {"heads": settings.heads},
    "delta": lambda settings: {"kind": "fast_weight", "heads": settings.heads},
    "gated_delta": lambda settings: {
        "kind": "fast_weight",
        "heads": settings.heads,
        "update_rule": "gated_delta",
    },
    "lstm": lambda _: {"kind": "lstm"},
    "none": lambda _: {"kind": "none"},
}


def core_of(settings: SortingSettings, method: str) -> CoreConfig:
    """The configuration of a memory."""
    values = METHODS[method](settings)
    return validate(CORES[values["kind"]], values, method)


def points(settings: SortingSettings) -> list[Row]:
    """One seed of everything first."""
    return [
        {"length": length, "method": method, "seed": seed}
        for seed in settings.seeds
        for length in settings.lengths
        for method in (LAST_WINDOW, *settings.methods)
    ]


def measure(settings: SortingSettings, point: Row, folder: Path) -> Measurement:
    """Trains one memory, and measures it on sequences that it has not seen."""
    method, seed = str(point["method"]), int(point["seed"])
    task = SortingConfig(symbols=settings.symbols, length=int(point["length"]))
    device = choose_device(settings.device)
    unseen = torch.Generator(device).manual_seed(2_000_000 + seed)
    if method == LAST_WINDOW:
        yield Progress(0, 1)
        # the window at the separator, which itself takes a place in it
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
    parameters = sum(parameter.numel() for parameter in model.parameters())
    about: Row = {"parameters": parameters, "state_size": state_size(model.stack)}
    return [_row(torch.cat(right), about)]


def last_logits(
    model: SequenceModel, tokens: Int[Tensor, "B T"], backpropagated: int
) -> Float[Tensor, "B last classes"]:
    """The logits at the last times; what came before is read with no gradient, piece by piece."""
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
    model: SequenceModel, batch: SortingBatch, settings: SortingSettings
) -> Float[Tensor, "B symbols"]:
    guess = last_logits(model, batch.tokens, settings.backpropagated).argmax(-1)
    return (guess == batch.targets[:, -guess.shape[1] :])[:, -settings.symbols :].float()


def _test_batches(
    settings: SortingSettings, task: SortingConfig, generator: torch.Generator
) -> list[SortingBatch]:
    size, left = settings.training.batch_size, settings.test_sequences
    sizes = [size] * (left // size) + [left % size] * (left % size > 0)
    return [sorting_batch(task, each, generator) for each in sizes]


def _row(right: Float[Tensor, "sequences symbols"], about: Row) -> Row:
    """The accuracy, its standard error over sequences, and that of each answer."""
    by_sequence = right.mean(dim=1)
    each = {f"answer_{i}": round(a, 4) for i, a in enumerate(right.mean(dim=0).tolist(), start=1)}
    return {
        "accuracy": round(by_sequence.mean().item(), 4),
        "error": round(by_sequence.std().item() / len(right) ** 0.5, 5),
        **about,
        **each,
    }


BENCHMARK = Benchmark(
    settings=SortingSettings,
    presets={
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
            "training": {
                "steps": 20_000,
                "batch_size": 8,
                "optimizer": "adam",
                "learning_rate": 2e-4,
            },
        },
    },
    points=points,
    measure=measure,
    draw=draw,
    published=[
        {"length": 4000, "finding": "Transformer-XL is best or equal: its memory holds nearly all"},
        {"length": 8000, "finding": "infinite-former above Compressive Transformer and TXL"},
        {"length": 16000, "finding": "infinite-former clearly best, TXL degrades strongly"},
    ],
)
