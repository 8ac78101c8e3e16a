"""Answers in an endless stream of stories (catbAbI of Schlag et al. 2021b).

Trained on segments of the stream, with the state carried from one to the next and never reset:
models must notice by themselves that another story has begun. The default stories are synthetic,
of ``fwrl.bench.catbabi.stories``; ``data=FOLDER`` reads bAbI's own files.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings
from fwrl.bench.catbabi.babi_files import read_babi
from fwrl.bench.catbabi.figure import PUBLISHED, draw
from fwrl.bench.catbabi.task import (
    QUESTION,
    Corpus,
    Mode,
    QuestionAlone,
    Stream,
    corpora,
    stream,
    synthetic,
)
from fwrl.bench.sequence_model import SequenceModel
from fwrl.bench.supervised import Learner, TrainingConfig
from fwrl.config import validate
from fwrl.core import state_size
from fwrl.cores import CORES, CoreConfig
from fwrl.run.process import Clock, choose_device
from fwrl.stack import StackConfig
from fwrl.state import detach_state

# What answers without a model: the answer that was most frequent for the same question.
QUESTION_ALONE = "question_alone"


class CatbabiSettings(Settings):
    """What is measured, and with what."""

    axes: ClassVar[tuple[str, ...]] = ("seeds", "methods", "modes")

    methods: tuple[str, ...] = ("fast_weight_memory", "lstm", "delta", "window_attention")
    """Memories, by their names in ``METHODS``; the question alone is always added."""
    modes: tuple[Mode, ...] = ("qm",)
    """``lm``: every next word is to be predicted; ``qm``: the answers alone."""
    data: Path | None = None
    """The folder of bAbI's files, such as ``en-valid-10k``; None: synthetic stories."""
    stories: PositiveInt = 1000
    """Of each synthetic family to train on."""
    held_out: PositiveInt = 50
    """Of each synthetic family for validation, and as many for the test."""
    stack: StackConfig = StackConfig(width=96, layers=1)
    """The layers around each memory."""
    heads: PositiveInt = 4
    """Of fast weights and attention."""
    memory_size: PositiveInt = 16
    """Of fast weight memory, which holds the third power of it."""
    window: PositiveInt = 128
    """Of windowed attention."""
    segment: PositiveInt = 100
    """Times through which the gradient flows."""
    reset: bool = False
    """Whether memories are emptied where a story begins; the published ones never were."""
    training: TrainingConfig = TrainingConfig(
        steps=2000, optimizer="adam", learning_rate=1e-3, schedule="constant"
    )
    """Of the steps, the optimiser and the learning rate."""
    evaluate_every: NonNegativeInt = 250
    """Updates between two validations; 0: none."""
    test_batch_size: PositiveInt = 32
    """Rows of the test stream; 1 in the publication."""

    @model_validator(mode="after")
    def _known(self) -> "CatbabiSettings":
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods: {method!r} is not one of {', '.join(METHODS)}")
        return self


# The memories that are compared.
METHODS: Mapping[str, Callable[[CatbabiSettings], dict[str, Any]]] = {
    "fast_weight_memory": lambda settings: {
        "kind": "fast_weight_memory",
        "memory_size": settings.memory_size,
        "read_tanh": "edges",
        "residual": False,
        "forget_bias": 1.0,
    },
    "lstm": lambda _: {"kind": "lstm"},
    "delta": lambda settings: {"kind": "fast_weight", "heads": settings.heads},
    "sum": lambda settings: {
        "kind": "fast_weight",
        "heads": settings.heads,
        "update_rule": "sum",
        "feature_map": "elu_plus_one",
        "normalise": "none",
        "attention_normaliser": True,
    },
    "gated_delta": lambda settings: {
        "kind": "fast_weight",
        "heads": settings.heads,
        "update_rule": "gated_delta",
    },
    "window_attention": lambda settings: {
        "kind": "window_attention",
        "heads": settings.heads,
        "window": settings.window,
    },
    "none": lambda _: {"kind": "none"},
}


def core_of(settings: CatbabiSettings, method: str) -> CoreConfig:
    """The configuration of a memory."""
    values = METHODS[method](settings)
    return validate(CORES[values["kind"]], values, method)


def points(settings: CatbabiSettings) -> list[Row]:
    """One seed of everything first."""
    trained: list[Row] = [
        {"mode": mode, "method": method, "seed": seed}
        for seed in settings.seeds
        for mode in settings.modes
        for method in settings.methods
    ]
    return [{"mode": "qm", "method": QUESTION_ALONE, "seed": 0}, *trained]


def read(settings: CatbabiSettings) -> dict[str, Corpus]:
    """What to train, validate and test on."""
    if settings.data is not None:
        return corpora(read_babi(settings.data))
    held_out = settings.held_out
    return corpora(synthetic({"train": settings.stories, "valid": held_out, "test": held_out}, 0))


def measure(settings: CatbabiSettings, point: Row, folder: Path) -> Measurement:
    """Trains one memory; lines of its validations, then one of its test."""
    method, seed = str(point["method"]), int(point["seed"])
    mode: Mode = "lm" if point["mode"] == "lm" else "qm"
    yield Progress(0, settings.training.steps, "reading")
    corpus = read(settings)
    if method == QUESTION_ALONE:
        counted = QuestionAlone(corpus["train"]).right(corpus["test"])
        return [_row("test", 0, counted)]

    torch.manual_seed(seed)
    device = choose_device(settings.device)
    size = len(corpus["train"].words)
    core = core_of(settings, method)
    model = SequenceModel((size,), size, settings.stack, core).to(device)
    learner, saving = Learner(model, settings.training), Clock(settings.save_every)
    training = Segments(settings, corpus["train"], seed, device)
    state = model.initial_state(settings.training.batch_size, device)
    order = torch.Generator()
    rows: list[Row] = []
    if restored := learner.restore(folder, order, state):
        state, rows = restored
    total = settings.training.steps
    while learner.step < total:
        model.train()
        part = training.at(learner.step)
        logits, state = model(part.tokens, detach_state(state), _starts(settings, part))
        targets = part.targets(mode).flatten()
        # a segment may hold no question
        asked = (targets >= 0).sum().clamp_min(1)
        loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / asked
        learner.update(loss)
        if settings.evaluate_every and learner.step % settings.evaluate_every == 0:
            yield Progress(learner.step, total, "validating")
            counted = evaluate(model, settings, corpus["valid"], settings.training.batch_size)
            rows.append(_row("valid", learner.step, counted))
        if saving.due():
            learner.save(folder, order, state, rows)
        yield Progress(learner.step, total, f"loss {loss.item():.3f}")
    yield Progress(total, total, "testing")
    counted = evaluate(model, settings, corpus["test"], settings.test_batch_size)
    about: Row = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_size": state_size(model.stack),
    }
    return [*rows, _row("test", total, counted) | about]


class Segments:
    """The segments of the training stream, one for each update; each epoch has its own order."""

    def __init__(
        self, settings: CatbabiSettings, corpus: Corpus, seed: int, device: torch.device
    ) -> None:
        self.corpus, self.seed, self.device = corpus, seed, device
        self.batch_size, self.length = settings.training.batch_size, settings.segment
        words = sum(len(story) for story in corpus.stories)
        # short rests at the ends of rows are left out
        self.per_epoch = max((words - 1) // self.batch_size // self.length, 1)
        self.epoch, self.stream = -1, None

    def at(self, step: int) -> Stream:
        """What the update after ``step`` others reads; it depends on nothing else."""
        epoch, index = divmod(step, self.per_epoch)
        if self.stream is None or epoch != self.epoch:
            generator = torch.Generator().manual_seed(1_000_000 * (self.seed + 1) + epoch)
            whole = stream(self.corpus, self.batch_size, generator)
            self.epoch, self.stream = epoch, Stream(*(field.to(self.device) for field in whole))
        return self.stream.segment(index, self.length)


@torch.no_grad()
def evaluate(
    model: SequenceModel, settings: CatbabiSettings, corpus: Corpus, batch_size: int
) -> dict[str, tuple[int, int]]:
    """How many answers are right, and how many there are, by family.

    The stories come in an order that is always the same, the memory is empty before the first.
    """
    model.eval()
    device = next(model.parameters()).device
    whole = stream(corpus, batch_size, torch.Generator().manual_seed(0))
    state = model.initial_state(batch_size, device)
    counted = torch.zeros(2, len(corpus.families), dtype=torch.long)
    for index in range(-(-whole.tokens.shape[1] // settings.segment)):
        part = Stream(*(field.to(device) for field in whole.segment(index, settings.segment)))
        logits, state = model(part.tokens, state, _starts(settings, part))
        asked = part.tokens == QUESTION
        right = logits.argmax(-1)[asked] == part.following[asked]
        family = part.family[asked]
        both = [
            torch.bincount(f.cpu(), minlength=counted.shape[1]) for f in (family[right], family)
        ]
        counted += torch.stack(both)
    right_of, asked_of = counted.tolist()
    return dict(zip(corpus.families, zip(right_of, asked_of, strict=True), strict=True))


def _starts(settings: CatbabiSettings, part: Stream) -> Tensor:
    return part.starts if settings.reset else torch.zeros_like(part.starts)


def _row(split: str, step: int, counted: Mapping[str, tuple[int, int]]) -> Row:
    """The accuracy over all answers, and of each family."""
    right, asked = (sum(column) for column in zip(*counted.values(), strict=True))
    accuracy = right / max(asked, 1)
    by_family: Row = {
        f"of_{family}": round(hits / total, 4) for family, (hits, total) in counted.items() if total
    }
    error = (accuracy * (1 - accuracy) / max(asked, 1)) ** 0.5
    return {
        "split": split,
        "step": step,
        "accuracy": round(accuracy, 4),
        "error": round(error, 5),
        "answers": asked,
        **by_family,
    }


BENCHMARK = Benchmark(
    settings=CatbabiSettings,
    presets={
        "smoke": {
            "methods": ["fast_weight_memory", "lstm"],
            "stories": 20,
            "held_out": 2,
            "stack": {"width": 16, "layers": 1},
            "memory_size": 4,
            "segment": 20,
            "training": {"steps": 10, "batch_size": 8},
            "evaluate_every": 5,
            "test_batch_size": 8,
        },
        "cpu": {"seeds": [0, 1, 2]},
        "paper": {
            "modes": ["qm", "lm"],
            "seeds": [0, 1, 2],
            "stories": 1000,
            "held_out": 100,
            # the published models have no layers after the memory: one unit is as good as none
            "stack": {"width": 256, "layers": 1, "feed_forward": 1},
            "memory_size": 32,
            "segment": 200,
            "window": 400,
            "training": {
                "steps": 50_000,
                "optimizer": "adam",
                "learning_rate": 1e-3,
                "schedule": "constant",
            },
            "test_batch_size": 1,
        },
    },
    points=points,
    measure=measure,
    draw=draw,
    published=PUBLISHED,
)
