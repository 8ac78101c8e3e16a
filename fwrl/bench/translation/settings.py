"""The settings of the translation benchmark, and the model of each method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from fwrl.bench.benchmark import Settings, one_of
from fwrl.bench.sequence_model import LINEAR_ATTENTION, core_config
from fwrl.bench.supervised import TrainingConfig
from fwrl.bench.translation.grammar_pair import GrammarPairConfig
from fwrl.bench.translation.model import TranslationModelConfig
from fwrl.config import validate
from fwrl.cores import CORES

# The baseline, which is not trained but counted.
WORD_BY_WORD = "word by word"


class Method(NamedTuple):
    """The decoder's memory, and the attention to whole sequences."""

    memory: Mapping[str, Any]
    # options of the encoder's attention and the decoder's cross attention
    attention: Mapping[str, Any] = {}
    encoder: Literal["attention", "directions"] = "attention"


ELU = {"feature_map": "elu_plus_one"}
DPFP = {f"dpfp {nu}": {"feature_map": "dpfp", "nu": nu} for nu in (1, 2, 3, 4)}
# hyperbolic features of inputs that are not scaled, as in Schlag et al.
FAVOR = {"feature_map": "favor_hyperbolic", "scale_inputs": False}
PERFORMERS = {f"performer {m}": FAVOR | {"num_features": m} for m in (32, 64, 128, 192, 256)}
DELTA = {"update_rule": "delta", "normalise": "sum", "attention_normaliser": False}
# The rows of the table; the numbers are nu of dpfp, and random directions of Performers. Fast
# weights and attention have the same feature map.
METHODS: dict[str, Method] = {
    "softmax": Method({"kind": "window_attention", "positions": "none"}),
    **{
        name: Method(LINEAR_ATTENTION | features, features)
        for name, features in ({"linear": ELU} | PERFORMERS | DPFP).items()
    },
    **{
        f"delta, {name}": Method(DELTA | features, features)
        for name, features in ({"elu + 1": ELU} | DPFP).items()
    },
    "gated delta": Method({"update_rule": "gated_delta"}, encoder="directions"),
    "none": Method({"kind": "none"}),
    # other memories have no form that reads a sentence as a whole
    **{
        kind: Method({"kind": kind}, encoder="directions")
        for kind in CORES
        if kind not in ("none", "fast_weight")
    },
}


class TranslationSettings(Settings):
    """The texts, the model, its training and the search for translations."""

    axes: ClassVar[tuple[str, ...]] = ("seeds", "methods")

    methods: Annotated[tuple[str, ...], one_of([*METHODS, WORD_BY_WORD])] = (
        "softmax",
        "linear",
        "dpfp 2",
    )
    """Rows of the table; ``word by word`` is the baseline that is not trained."""
    data: Path | None = None
    """Folder with train.en, train.de, valid.en and so on. None: a synthetic grammar pair."""
    source_language: str = "en"
    """Ending of the files to translate from."""
    target_language: str = "de"
    """Ending of the files with the translations."""
    languages: GrammarPairConfig = GrammarPairConfig()
    """The synthetic grammar pair."""
    vocabulary: Literal["words", "subwords"] = "words"
    """The most frequent words, or pieces of words by byte pair encoding, of both languages."""
    vocabulary_size: int = Field(default=32_000, ge=5)
    """Most tokens of the vocabulary."""
    max_length: PositiveInt = 100
    """Most tokens of a training sentence; longer ones are left out."""
    max_tokens: PositiveInt = 2048
    """Most tokens of one side of a batch, padding included."""
    accumulation: PositiveInt = 1
    """Batches per update."""
    width: PositiveInt = 128
    """Width of embeddings and of the residual streams; a multiple of the heads."""
    heads: PositiveInt = 4
    """Heads of every attention, and of the decoder's memory if it has heads."""
    layers: PositiveInt = 2
    """Layers of the encoder, and of the decoder."""
    feed_forward: PositiveInt | None = None
    """Hidden units of feed-forward networks; None: twice the width."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of embeddings and of the layers' outputs."""
    cross_attention: Literal["same", "softmax"] = "same"
    """Cross attention of the decoder: by the method's feature map if it has one, or softmax."""
    redraw_every: NonNegativeInt = 1
    """Updates after which Performers draw new directions. 0: never."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of each target that is spread over all words."""
    beam: PositiveInt = 4
    """Beam of the search for the translations that are scored by BLEU."""
    length_penalty: NonNegativeFloat = 0.6
    """The logarithm of a translation's probability is divided by its length to this power."""
    training: TrainingConfig = TrainingConfig(
        optimizer="adam", betas=(0.9, 0.98), epsilon=1e-9, weight_decay=0.0
    )
    """Updates, optimiser and learning rate; ``max_tokens`` is the size of a batch."""

    @model_validator(mode="after")
    def _consistent(self) -> "TranslationSettings":
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
    """The model of one of ``METHODS``.

    ``longest`` is the largest number of words in a translation: the window of softmax attention.
    """
    method = METHODS[name]
    shared = {"heads": settings.heads, "redraw_every": settings.redraw_every}
    attention = {**method.attention, **shared}
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
            "memory": core_config(name, method.memory, shared | {"window": longest}),
        },
        name,
    )
