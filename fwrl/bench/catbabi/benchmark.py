"""Answers in an endless stream of stories (catbAbI of Schlag et al. 2021b).

Models are trained on segments of the stream; the state is carried from one to the next and never
reset, so that they must notice by themselves that another story has begun. The default stories are
synthetic (``fwrl.bench.catbabi.stories``); ``data=FOLDER`` reads bAbI's own files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from fwrl.bench.benchmark import Benchmark, Measurement, Progress, Row, Settings, one_of
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
from fwrl.bench.sequence_model import LINEAR_ATTENTION, SequenceModel, core_config, sizes_of
from fwrl.bench.supervised import Learner, TrainingConfig
from fwrl.cores import CoreConfig
from fwrl.run.process import Clock, choose_device
from fwrl.stack import StackConfig
from fwrl.state import detach_state

# The baseline without a model: the answer that was most frequent for the same question.
QUESTION_ALONE = "question_alone"
# The memories that are compared: differences from the defaults of their cores.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "fast_weight_memory": {
        "kind": "fast_weight_memory",
        "read_tanh": "edges",
        "residual": False,
        "forget_bias": 1.0,
    },
    "lstm": {"kind": "lstm"},
    "delta": {},
    "sum": LINEAR_ATTENTION | {"feature_map": "elu_plus_one"},
    "gated_delta": {"update_rule": "gated_delta"},
    "window_attention": {"kind": "window_attention"},
    "none": {"kind": "none"},
}


class CatbabiSettings(Settings):
    """The memories, the stories, and the training."""

    axes: ClassVar[tuple[str, ...]] = ("seeds", "methods", "modes")

    methods: Annotated[tuple[str, ...], one_of(METHODS)] = (
        "fast_weight_memory", "lstm", "delta", "window_attention",
    )  # fmt: skip
    """Memories; the baseline that sees the question alone is always added."""
    modes: tuple[Mode, ...] = ("qm",)
    """``lm``: a model predicts every next word; ``qm``: the answers alone."""
    data: Path | None = None
    """The folder of bAbI's files, such as ``en-valid-10k``; None: synthetic stories."""
    stories: PositiveInt = 1000
    """Training stories of each synthetic family."""
    held_out: PositiveInt = 50
    """Stories of each synthetic family for validation, and as many for the test."""
    stack: StackConfig = StackConfig(width=96, layers=1)
    """The layers around each memory."""
    heads: PositiveInt = 4
    """Heads of fast weights and attention."""
    memory_size: PositiveInt = 16
    """Size of fast weight memory, whose state has the third power of it."""
    window: PositiveInt = 128
    """Window of attention, in time steps."""
    segment: PositiveInt = 100
    """Time steps through which the gradient flows."""
    reset: bool = False
    """Whether memories are reset where a story begins; the published ones never were."""
    training: TrainingConfig = TrainingConfig(
        steps=2000, optimizer="adam", learning_rate=1e-3, schedule="constant"
    )
    """Updates, batches, optimiser and learning rate."""
    evaluate_every: NonNegativeInt = 250
    """Updates between two validations; 0: none."""
    test_batch_size: PositiveInt = 32
    """Rows of the test stream; 1 in the publication."""


def core_of(settings: CatbabiSettings, method: str) -> CoreConfig:
    """The memory of a method."""
    sizes = {name: getattr(settings, name) for name in ("heads", "memory_size", "window")}
    return core_config(method, METHODS[method], sizes)


def points(settings: CatbabiSettings) -> list[Row]:
    """The baseline, then every mode and method with one seed before the next."""
    trained: list[Row] = [
        {"mode": mode, "method": method, "seed": seed}
        for seed in settings.seeds
        for mode in settings.modes
        for method in settings.methods
    ]
    return [{"mode": "qm", "method": QUESTION_ALONE, "seed": 0}, *trained]


def read(settings: CatbabiSettings) -> dict[str, Corpus]:
    """The stories for training, validation and test."""
    if settings.data is not None:
        return corpora(read_babi(settings.data))
    held_out = settings.held_out
    return corpora(synthetic({"train": settings.stories, "valid": held_out, "test": held_out}, 0))


def measure(settings: CatbabiSettings, point: Row, folder: Path) -> Measurement:
    """Train one memory: a row for each validation, then one for the test."""
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
    state, rows = learner.restore(folder, order, state)
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
    return [*rows, _row("test", total, counted) | sizes_of(model)]


class Segments:
    """The segments of the training stream, one for each update; each epoch has its own order."""

    def __init__(
        self, settings: CatbabiSettings, corpus: Corpus, seed: int, device: torch.device
    ) -> None:
        self.corpus, self.seed, self.device = corpus, seed, device
        self.batch_size, self.length = settings.training.batch_size, settings.segment
        words = sum(len(story) for story in corpus.stories)
        # short remainders at the ends of rows are left out
        self.per_epoch = max((words - 1) // self.batch_size // self.length, 1)
        self.epoch, self.stream = -1, None

    def at(self, step: int) -> Stream:
        """The segment of the update that follows ``step`` others; it depends on nothing else."""
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
    """The numbers of right answers and of all answers, by family.

    The stories always come in the same order; the memory is empty before the first.
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
    return dict(zip(corpus.families, zip(*counted.tolist(), strict=True), strict=True))


def _starts(settings: CatbabiSettings, part: Stream) -> Tensor:
    return part.starts if settings.reset else torch.zeros_like(part.starts)


def _row(split: str, step: int, counted: Mapping[str, tuple[int, int]]) -> Row:
    """The accuracy over all answers, its standard error, and the accuracy of each family."""
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


PRESETS: dict[str, dict[str, Any]] = {
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
        # the published models have no layers after the memory; one unit is next to none
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
}

BENCHMARK = Benchmark(CatbabiSettings, PRESETS, points, measure, draw, PUBLISHED)
