"""An encoder and a decoder for translation; any core is the decoder's memory of its own words.

The encoder sees a sentence in both directions; the decoder reads the encoded sentence and the words
that it has said. A word costs the same however many came before, unless the core's state grows.
Normalisation comes before the layers, not after them as in Vaswani et al. (2017). Axis ``S``: words
to translate.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.bench.translation.attention import Readable, SequenceAttention, SequenceAttentionConfig
from fwrl.config import Config
from fwrl.core import MemoryCore
from fwrl.cores import CoreConfig
from fwrl.cores.parts.attention import frequencies
from fwrl.state import time_in_episode


class TranslationModelConfig(Config):
    """The sizes, the two kinds of attention, and the memory."""

    width: PositiveInt = 128
    """Width of embeddings and of the residual streams of encoder and decoder."""
    encoder_layers: PositiveInt = 2
    """Number of layers of the encoder."""
    decoder_layers: PositiveInt = 2
    """Number of layers of the decoder."""
    feed_forward: PositiveInt | None = None
    """Hidden units of each feed-forward network; None: twice the width."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of embeddings and of the layers' outputs."""
    encoder: Literal["attention", "directions"] = "attention"
    """Layers of the encoder: ``attention``, or the sum of two memories like the decoder's, one of
    which reads backwards."""
    attention: SequenceAttentionConfig = SequenceAttentionConfig()
    """Attention of the encoder, unless it has directions."""
    cross_attention: SequenceAttentionConfig = SequenceAttentionConfig()
    """Attention of the decoder to the encoded sentence."""
    memory: CoreConfig
    """The decoder's memory of the words that it has said."""


# Encoded sentences, in the form that each layer of the decoder reads.
Source = tuple[Readable, ...]


class DecoderState(NamedTuple):
    """The memory of the words said, layer by layer, and their number."""

    layers: tuple[Any, ...]
    said: Float[Tensor, " B"]


class TranslationModel(nn.Module):
    """One embedding serves both languages and the logits (Press and Wolf 2017)."""

    angles: Tensor

    def __init__(self, vocabulary: int, config: TranslationModelConfig) -> None:
        """Random slow weights, from torch's global generator; token 0 is padding."""
        super().__init__()
        width = config.width
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.register_buffer("angles", frequencies(width + width % 2), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)

    def encode(self, source: Int[Tensor, "B S"]) -> Source:
        """The encoded sentences; they may have padding at their ends only."""
        present = source != 0
        time = torch.arange(1.0, source.shape[1] + 1, device=source.device)
        x = self._embed(source, time.expand(source.shape))
        for layer in cast("Iterable[EncoderLayer]", self.encoder):
            x = layer(x, present)
        x = self.encoder_norm(x)
        return tuple(layer.cross.readable(x, present) for layer in self._decoder())

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> DecoderState:
        """The state of decoders that have said nothing."""
        return DecoderState(
            tuple(layer.core.initial_state(batch_size, device) for layer in self._decoder()),
            torch.zeros(batch_size, device=device),
        )

    def unroll(
        self,
        said: Int[Tensor, "B T"],
        source: Source,
        state: DecoderState,
        starts: Bool[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T logits"], DecoderState]:
        """Logits of the word after each of those said, and the state after the last.

        The first word of a translation is the begin token; nothing before ``starts`` is remembered.
        """
        time = time_in_episode(starts, state.said)
        x = self._embed(said, time)
        states: list[Any] = []
        for layer, read, before in zip(self._decoder(), source, state.layers, strict=True):
            x, after = layer(x, read, before, starts)
            states.append(after)
        logits = F.linear(self.decoder_norm(x), self.embedding.weight)
        return logits, DecoderState(tuple(states), time[:, -1])

    @override
    def forward(
        self, source: Int[Tensor, "B S"], said: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T logits"]:
        """The logits of each next word of whole translations."""
        state = self.initial_state(len(said), said.device)
        starts = torch.zeros_like(said, dtype=torch.bool)
        return self.unroll(said, self.encode(source), state, starts)[0]

    def _embed(self, words: Int[Tensor, "B T"], time: Float[Tensor, "B T"]) -> Tensor:
        """Word vectors, scaled by the root of their width, plus sinusoidal positions."""
        width = self.embedding.embedding_dim
        angle = time.unsqueeze(-1) * self.angles
        places = torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width]
        return self.dropout(self.embedding(words) * math.sqrt(width) + places)

    def _decoder(self) -> "Iterable[DecoderLayer]":
        return cast("Iterable[DecoderLayer]", self.decoder)


class EncoderLayer(nn.Module):
    """Attention to the whole sentence, then a feed-forward network."""

    def __init__(self, config: TranslationModelConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.look = BothDirections(config) if config.encoder == "directions" else Inside(config)
        self.feed_forward = _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    @override
    def forward(self, x: Float[Tensor, "B S D"], present: Bool[Tensor, "B S"]) -> Tensor:
        x = x + self.dropout(self.look(self.norm(x), present))
        return x + self.dropout(self.feed_forward(x))


class Inside(nn.Module):
    """Self-attention of a sentence."""

    def __init__(self, config: TranslationModelConfig) -> None:
        super().__init__()
        self.attention = SequenceAttention(config.width, config.attention)

    @override
    def forward(self, x: Float[Tensor, "B S D"], present: Bool[Tensor, "B S"]) -> Tensor:
        return self.attention.read(x, self.attention.readable(x, present))


class BothDirections(nn.Module):
    """The sum of two memories, one of which reads backwards (Schuster and Paliwal 1997).

    The backward memory reads the padding first and is reset where the sentence starts.
    """

    def __init__(self, config: TranslationModelConfig) -> None:
        super().__init__()
        width = config.width
        self.forwards: MemoryCore[Any] = config.memory.build(width)
        self.backwards: MemoryCore[Any] = config.memory.build(width)
        self.resize = nn.Linear(self.forwards.output_size, width, bias=False)

    @override
    def forward(self, x: Float[Tensor, "B S D"], present: Bool[Tensor, "B S"]) -> Tensor:
        nothing = torch.zeros_like(present)
        y, _ = self.forwards.unroll(x, self.forwards.initial_state(len(x), x.device), nothing)
        # True at the first word in reading order, if padding came before it
        starts = present.flip(1) & ~F.pad(present.flip(1), (1, 0), value=True)[:, :-1]
        state = self.backwards.initial_state(len(x), x.device)
        z, _ = self.backwards.unroll(x.flip(1), state, starts)
        return self.resize(y + z.flip(1))


class DecoderLayer(nn.Module):
    """The memory of the words said, attention to the source, then a feed-forward network."""

    def __init__(self, config: TranslationModelConfig) -> None:
        super().__init__()
        width = config.width
        self.core_norm = nn.LayerNorm(width)
        self.core: MemoryCore[Any] = config.memory.build(width)
        fits = self.core.output_size == width
        self.resize = nn.Identity() if fits else nn.Linear(self.core.output_size, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = SequenceAttention(width, config.cross_attention)
        self.feed_forward = _feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    @override
    def forward(
        self, x: Float[Tensor, "B T D"], source: Readable, state: Any, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        y, state = self.core.unroll(self.core_norm(x), state, starts)
        x = x + self.dropout(self.resize(y))
        x = x + self.dropout(self.cross.read(self.cross_norm(x), source))
        return x + self.dropout(self.feed_forward(x)), state


def _feed_forward(config: TranslationModelConfig) -> nn.Module:
    width = config.width
    hidden = config.feed_forward or 2 * width
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
    )
