"""Language modelling (Schlag et al. 2021a, tables 2 to 5; Irie et al. 2021; Schlag et al. 2021b).

Each method is the same stack around another memory, trained on the same number of tokens. With
``equal_parameters`` the feed-forward layers make up for differences in parameters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic import model_validator as check

from fwrl.bench.benchmark import Benchmark, Measurement, Row, Settings, grid
from fwrl.bench.lm.figure import draw
from fwrl.bench.lm.model import LanguageModel, LanguageModelConfig, sample
from fwrl.bench.lm.text import LIBRARY, Corpus, load_corpus
from fwrl.bench.lm.training import Evaluation, Segments, in_segments, in_windows, mean_loss, train
from fwrl.bench.results import read_published
from fwrl.bench.sequence_model import LINEAR_ATTENTION, core_config, count_parameters
from fwrl.bench.supervised import Learner, TrainingConfig
from fwrl.config import ConfigError, nearest
from fwrl.cores import CORES, CoresConfig
from fwrl.files.plain_files import replace_plain
from fwrl.run.process import choose_device
from fwrl.stack import ResidualStack, StackConfig, layer_cores

SUM = LINEAR_ATTENTION
DELTA = {"update_rule": "delta", "normalise": "sum"}
ELU = {"feature_map": "elu_plus_one"}
PERFORMER = {"feature_map": "favor_hyperbolic", "num_features": 8}
DPFP = {"feature_map": "dpfp", "nu": 1}
# so that telling the last few tokens apart does not depend on the memory alone
CONVOLUTION = {"short_convolution": 4}
# Differences from the defaults of a core; any kind of memory is a method too, by its own name.
METHODS: dict[str, Mapping[str, Any]] = {
    **{kind: {"kind": kind} for kind in CORES},
    "sum": SUM | ELU,
    "delta": DELTA | ELU,
    "sum, convolution": SUM | ELU | CONVOLUTION,
    "delta, convolution": DELTA | ELU | CONVOLUTION,
    "performer sum": SUM | PERFORMER,
    "performer delta": DELTA | PERFORMER,
    "dpfp sum": SUM | DPFP,
    "dpfp delta": DELTA | DPFP,
    "silu delta": {},
    "gated delta": {"update_rule": "gated_delta"},
    "softmax": {"kind": "window_attention"},
}
PUBLISHED = read_published("lm")

# Segments read before the sample by a model trained with a carried state, which hardly knows an
# empty one.
READ_BEFORE = 32


def _several(value: Any) -> Any:
    """One value means a list of one."""
    return [value] if isinstance(value, str | bool) else value


class LanguageModelSettings(Settings):
    """The text, the model, its training and its evaluation."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "carry", "seeds")

    methods: Annotated[tuple[str, ...], BeforeValidator(_several)] = ("sum", "delta")
    """Names of ``METHODS``, kinds of memory, or names of ``cores``."""
    cores: dict[str, CoresConfig] = Field(default_factory=dict)
    """More methods by name, such as ``cores.mine.update_rule=kda methods=[mine]``; one may
    be a list of memories, one for each layer."""
    carry: Annotated[tuple[bool, ...], BeforeValidator(_several)] = (True,)
    """Whether the state is carried from one segment to the next; several values are possible."""
    corpus: str = LIBRARY
    """``library``: the source text of Python's standard library; a folder with texts such as
    wiki.train.tokens, ptb.train.txt or train.txt; or hub:wikitext-2, hub:wikitext-103."""
    level: Literal["byte", "word"] = "byte"
    """Unit of prediction: bytes (bits per byte) or words (perplexity)."""
    train_bytes: PositiveInt | None = None
    """Most bytes of the training text."""
    valid_bytes: PositiveInt | None = None
    """Most bytes of the validation text."""
    test_bytes: PositiveInt | None = None
    """Most bytes of the test text."""
    model: LanguageModelConfig = LanguageModelConfig()
    """Sizes of the model around each memory."""
    heads: PositiveInt = 4
    """Heads of the memories that have heads."""
    equal_parameters: bool = True
    """Whether ``model.feed_forward`` holds for the method ``sum`` only, and the others get the
    width that makes their number of parameters nearest to that of ``sum``."""
    training: TrainingConfig = TrainingConfig()
    """Updates, batches, optimiser and learning rate."""
    length: PositiveInt = 256
    """Tokens in a segment; the window of attention."""
    evaluations: NonNegativeInt = 10
    """Validations in a training, at equal distances."""
    evaluation_rows: PositiveInt = 1
    """Pieces of a text that are read side by side in an evaluation. Each begins with an empty
    state, which a model trained with a carried state hardly knows; 1 reads the text as one."""
    stride: PositiveInt = 64
    """Step of the window that slides over the test text after a training without a carried state:
    only the last ``stride`` tokens of a window are predicted. 1 gives every token a full window."""
    sample: NonNegativeInt = 200
    """Tokens that a trained model writes into sample.txt, after reading a segment of the test text,
    or several segments if the state is carried."""
    temperature: NonNegativeFloat = 1.0
    """Temperature of the sample; 0 takes the most probable token."""

    @check(mode="after")
    def _possible(self) -> "LanguageModelSettings":
        for method in self.methods:
            if method not in self.cores and method not in METHODS:
                right = nearest(method, [*self.cores, *METHODS])
                raise ValueError(f"methods: there is no {method!r}; {right}")
        for name, core in self.cores.items():
            try:
                layer_cores(StackConfig(layers=self.model.layers), core)
            except ConfigError as error:
                raise ValueError(f"cores.{name}: model.{error}") from None
        if self.stride > self.length:
            raise ValueError(
                f"stride is {self.stride}, but tokens between two windows of {self.length} would "
                f"never be predicted; use at most length"
            )
        return self


def points(settings: LanguageModelSettings) -> list[Row]:
    """A training of each method, with a state carried or reset, and with each seed."""
    states = ["carried" if carry else "reset" for carry in settings.carry]
    return grid({"method": settings.methods, "state": states, "seed": settings.seeds})


def core_of(settings: LanguageModelSettings, method: str) -> CoresConfig:
    """The memory of a method."""
    if method in settings.cores:
        return settings.cores[method]
    sizes = {"heads": settings.heads, "window": settings.length}
    return core_config(f"methods: {method}", METHODS[method], sizes)


def model_config(settings: LanguageModelSettings, method: str) -> LanguageModelConfig:
    """The model around a method's memory, with its own width of feed-forward layers.

    Raises:
        ConfigError: If the memory alone has more parameters than the whole model may have.
    """
    config = settings.model
    if not settings.equal_parameters:
        return config

    def parameters(method: str, hidden: int) -> int:
        stack = StackConfig(width=config.width, layers=config.layers, feed_forward=hidden)
        return count_parameters(ResidualStack(stack, core_of(settings, method)))

    wanted = parameters("sum", config.feed_forward)
    least = parameters(method, 1)
    hidden = 1 + round((wanted - least) / (parameters(method, 2) - least))
    if hidden < 1:
        raise ConfigError(
            f"methods: {method} has {least:,} parameters without feed-forward layers, more than "
            f"{wanted:,}; use a larger model.feed_forward, or equal_parameters=false"
        )
    return config.model_copy(update={"feed_forward": hidden})


def measure(settings: LanguageModelSettings, point: Row, folder: Path) -> Measurement:
    """Train one model: a row for each reading of the validation and test texts."""
    device = choose_device(settings.device)
    method, seed = str(point["method"]), int(point["seed"])
    corpus = load_corpus(
        settings.corpus,
        settings.level,
        {"train": settings.train_bytes, "valid": settings.valid_bytes, "test": settings.test_bytes},
    )
    config = model_config(settings, method)
    torch.manual_seed(seed)
    model = LanguageModel(corpus.vocabulary, config, core_of(settings, method)).to(device)
    segments = Segments(settings.length, point["state"] == "carried")
    learner, steps = Learner(model, settings.training), settings.training.steps
    per_step = settings.training.batch_size * settings.length

    def row(split: str, reading: str, found: Evaluation) -> Row:
        return {"split": split, "reading": reading, "tokens": learner.step * per_step, **found.row}

    def valid(step: int) -> list[Row]:
        # the nearest update to each equal part
        if step * settings.evaluations // steps == (step - 1) * settings.evaluations // steps:
            return []
        text = corpus.valid.to(device)
        each = in_segments(model, text, segments, settings.evaluation_rows)
        return [row("valid", "segments", mean_loss(model, each))]

    rows = yield from train(
        learner, model, corpus.train.to(device), segments, folder, settings.save_every, valid
    )
    test = corpus.test.to(device)
    if not segments.carry:
        batch, stride = settings.training.batch_size, settings.stride
        sliding = in_windows(model, test, settings.length, stride, batch)
        rows = [*rows, row("test", f"window, stride {stride}", mean_loss(model, sliding))]
    whole = in_segments(model, test, segments, settings.evaluation_rows)
    rows = [*rows, row("test", "segments", mean_loss(model, whole))]
    if settings.sample:
        _write_sample(settings, corpus, model, segments.carry, folder / "sample.txt", seed)
    about: Row = {
        "parameters": count_parameters(model),
        "feed_forward": config.feed_forward,
        "vocabulary": corpus.vocabulary,
        "train_tokens": len(corpus.train),
        "corpus": f"{corpus.name} {corpus.sha256[:12]}",
    }
    return [each | about for each in rows]


def _write_sample(
    settings: LanguageModelSettings,
    corpus: Corpus,
    model: LanguageModel,
    carried: bool,
    path: Path,
    seed: int,
) -> None:
    """Write the last segment read of the test text, and the model's continuation."""
    read = settings.length * (READ_BEFORE if carried else 1)
    prompt = corpus.test[:read].long()
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    words = sample(model, prompt.to(device)[None], settings.sample, settings.temperature, generator)
    given = corpus.text(prompt[-settings.length :].tolist())
    written = corpus.text(words[0].tolist())
    text = f"{given}\n----- from here on the model writes -----\n{written}\n"
    replace_plain(path, text.encode())


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "methods": ["none", "sum", "delta"],
        "train_bytes": 100_000,
        "valid_bytes": 4_000,
        "test_bytes": 4_000,
        "model": {"width": 32, "layers": 2, "feed_forward": 64},
        "training": {"steps": 40, "batch_size": 8},
        "length": 64,
        "evaluations": 4,
        "stride": 32,
    },
    "cpu": {
        "methods": ["delta", "sum", "delta, convolution", "sum, convolution", "none"],
        "seeds": [0, 1, 2],
        "valid_bytes": 131_072,
        # not longer than a row of the training: no memory meets time steps that it never knew
        "test_bytes": 262_144,
        "model": {"width": 64, "layers": 2, "feed_forward": 256},
        "training": {
            "steps": 1800,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "warmup_steps": 100,
            "betas": [0.9, 0.98],
        },
    },
    # the small model; the page of results gives the settings of the medium one
    "paper": {
        "methods": ["softmax", "sum", "delta", "performer sum", "performer delta"],
        "carry": [False],
        "corpus": "wikitext-103",
        "level": "word",
        "model": {
            "width": 128,
            "layers": 16,
            "feed_forward": 2048,
            "positions": "sinusoidal",
            "dropout": 0.1,
            "cutoffs": [20_000, 40_000, 200_000],
        },
        "heads": 8,
        "equal_parameters": False,
        "training": {
            "steps": 500_000,
            "batch_size": 96,
            "optimizer": "adam",
            "learning_rate": 2.5e-4,
            "warmup_steps": 2000,
            "max_grad_norm": 0.25,
        },
        "evaluations": 120,
        "stride": 1,
    },
}

BENCHMARK = Benchmark(LanguageModelSettings, PRESETS, points, measure, draw, PUBLISHED)
