"""What the benchmark of translation can be told, and what model each of its methods is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from fwrl.bench.benchmark import Settings
from fwrl.bench.supervised import TrainingConfig
from fwrl.bench.translation.grammar_pair import GrammarPairConfig
from fwrl.bench.translation.model import TranslationModelConfig
from fwrl.config import nearest, validate
from fwrl.cores import CORES

# The baseline that is not trained.
WORD_BY_WORD = "word by word"


class Method(NamedTuple):
    """The decoder's memory, and how sequences are read as a whole."""

    memory: Mapping[str, Any]
    # of the encoder and of the decoder's view of it; without a feature map it is softmax attention
    attention: Mapping[str, Any] = {}
    encoder: Literal["attention", "directions"] = "attention"


def _sums(features: Mapping[str, Any]) -> Method:
    """The same feature map everywhere; the memory adds up, with attention normalisation."""
    rule = {"update_rule": "sum", "normalise": "none", "attention_normaliser": True}
    return Method({**rule, **features}, features)


def _delta(features: Mapping[str, Any]) -> Method:
    """As ``_sums``, but the memory is written by the delta rule, with keys whose sum is 1."""
    rule = {"update_rule": "delta", "normalise": "sum", "attention_normaliser": False}
    return Method({**rule, **features}, features)


def _dpfp(nu: int) -> dict[str, Any]:
    return {"feature_map": "dpfp", "nu": nu}


def _performer(num_features: int) -> dict[str, Any]:
    # hyperbolic features of inputs that are not scaled, as Schlag et al. have them
    return {
        "feature_map": "favor_hyperbolic",
        "num_features": num_features,
        "scale_inputs": False,
    }


# A method is a row of the table; the numbers are nu of dpfp, and random directions of Performers.
METHODS: dict[str, Method] = {
    "softmax": Method({"kind": "window_attention", "positions": "none"}),
    "linear": _sums({"feature_map": "elu_plus_one"}),
    **{f"performer {m}": _sums(_performer(m)) for m in (32, 64, 128, 192, 256)},
    **{f"dpfp {nu}": _sums(_dpfp(nu)) for nu in (1, 2, 3, 4)},
    "delta, elu + 1": _delta({"feature_map": "elu_plus_one"}),
    **{f"delta, dpfp {nu}": _delta(_dpfp(nu)) for nu in (1, 2, 3, 4)},
    "gated delta": Method({"update_rule": "gated_delta"}, encoder="directions"),
    "none": Method({"kind": "none"}),
    # any other memory has no form that knows both directions
    **{
        kind: Method({"kind": kind}, encoder="directions")
        for kind in CORES
        if kind not in ("none", "fast_weight")
    },
}


class TranslationSettings(Settings):
    """The texts, the model, and how it is trained and used."""

    axes: ClassVar[tuple[str, ...]] = ("seeds", "methods")

    methods: tuple[str, ...] = ("softmax", "linear", "dpfp 2")
    """Rows of the table; ``word by word`` is the baseline that is not trained."""
    data: Path | None = None
    """Folder with train.en, train.de, valid.en and so on. None: a synthetic grammar pair."""
    source_language: str = "en"
    """Ending of the files to translate from."""
    target_language: str = "de"
    """Ending of the files with the translations."""
    languages: GrammarPairConfig = GrammarPairConfig()
    """Of the synthetic grammar pair."""
    vocabulary: Literal["words", "subwords"] = "words"
    """The most frequent words, or pieces of words by byte pair encoding, of both languages."""
    vocabulary_size: int = Field(default=32_000, ge=5)
    """At most."""
    max_length: PositiveInt = 100
    """In tokens; longer sentences are not trained on."""
    max_tokens: PositiveInt = 2048
    """Of one side of a batch, padding included."""
    accumulation: PositiveInt = 1
    """Batches per update."""
    width: PositiveInt = 128
    """Of embeddings and of the streams of encoder and decoder; a multiple of the heads."""
    heads: PositiveInt = 4
    """Of every attention and of the decoder's memory, if it has heads."""
    layers: PositiveInt = 2
    """Of the encoder, and of the decoder."""
    feed_forward: PositiveInt | None = None
    """Hidden units; None: twice the width."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """The share of embeddings and of what is added to the stream that training drops."""
    cross_attention: Literal["same", "softmax"] = "same"
    """Whether the decoder reads the source by the method's feature map, if it has one."""
    redraw_every: NonNegativeInt = 1
    """Updates after which Performers draw new directions. 0: never."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """The share of each target that is spread over all words."""
    beam: PositiveInt = 4
    """Of the translations that BLEU is computed of."""
    length_penalty: NonNegativeFloat = 0.6
    """The logarithm of a translation's probability is divided by its length to this power."""
    training: TrainingConfig = TrainingConfig(
        optimizer="adam", betas=(0.9, 0.98), epsilon=1e-9, weight_decay=0.0
    )
    """Updates, optimiser and learning rate; ``max_tokens`` is the size of a batch."""

    @model_validator(mode="after")
    def _consistent(self) -> "TranslationSettings":
        known = [*METHODS, WORD_BY_WORD]
        for name in self.methods:
            if name not in known:
                raise ValueError(f"methods has {name!r}; {nearest(name, known)}")
        if self.max_tokens < self.max_length:
            raise ValueError(
                f"max_tokens is {self.max_tokens}, but a sentence may have max_length, "
                f"{self.max_length}; use more"
            )
        if self.training.batch_size != TrainingConfig().batch_size:
            raise ValueError(
                "training.batch_size is not used: batches have as many sentences as max_tokens "
                "allows; use max_tokens"
            )
        if self.width % self.heads:
            raise ValueError(
                f"width is {self.width}, which does not divide into {self.heads} heads; "
                f"use a multiple of {self.heads}"
            )
        return self


def model_config(settings: TranslationSettings, name: str, longest: int) -> TranslationModelConfig:
    """The model of a method.

    Args:
        settings: Its sizes.
        name: One of ``METHODS``.
        longest: How many words a translation can have: the window of softmax attention.
    """
    method = METHODS[name]
    memory, attention = dict(method.memory), dict(method.attention)
    core = CORES[memory.get("kind", "fast_weight")]
    sizes = {"heads": settings.heads, "window": longest, "redraw_every": settings.redraw_every}
    memory |= {field: value for field, value in sizes.items() if field in core.model_fields}
    attention |= {"heads": settings.heads, "redraw_every": settings.redraw_every}
    same = settings.cross_attention == "same"
    return validate(
        TranslationModelConfig,
        {
            "width": settings.width,
            "encoder_layers": settings.layers,
            "decoder_layers": settings.layers,
            "feed_forward": settings.feed_forward,
            "dropout": settings.dropout,
            "encoder": method.encoder,
            "attention": attention,
            "cross_attention": attention if same else {"heads": settings.heads},
            "memory": memory,
        },
        name,
    )
