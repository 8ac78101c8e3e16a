"""A language model: each word is read into the memory stack, which predicts the next one.

The stack is the one of the agents. All memory is in its state, which may be carried from one
segment of a text to the next.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import override

from fwrl.bench.lm.adaptive_softmax import TiedSoftmax
from fwrl.config import Config
from fwrl.cores import CoresConfig
from fwrl.stack import ResidualStack, StackConfig
from fwrl.state import time_in_episode


class LanguageModelConfig(Config):
    """The model around the memory."""

    width: PositiveInt = 128
    """Width of the residual stream, and of the words' vectors."""
    layers: PositiveInt = 2
    """Number of layers of the stack."""
    feed_forward: PositiveInt = 512
    """Hidden units after each core."""
    positions: Literal["none", "sinusoidal"] = "none"
    """Sinusoids of the time since the text began, added to the words (Vaswani et al. 2017). A
    carried state includes this time, which then exceeds all times of the training."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the stack's input and output, its layers' outputs and their hidden units."""
    cutoffs: tuple[PositiveInt, ...] = ()
    """Ranks of words by frequency at which clusters of the adaptive softmax begin; empty: a plain
    softmax."""

    @model_validator(mode="after")
    def _possible(self) -> "LanguageModelConfig":
        if list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise ValueError(f"cutoffs are {self.cutoffs}; use rising numbers")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"sinusoidal positions need an even width; it is {self.width}")
        return self


class LanguageModelState(NamedTuple):
    """The memory of streams of text."""

    # the state of each layer's core
    stack: tuple[Any, ...]
    # number of words so far
    time: Float[Tensor, " B"]


class LanguageModel(nn.Module):
    """Tied embeddings scaled by the root of their width, a residual stack, a softmax."""

    def __init__(self, vocabulary: int, config: LanguageModelConfig, core: CoresConfig) -> None:
        super().__init__()
        self.words = TiedSoftmax(vocabulary, config.width, config.cutoffs)
        sizes = StackConfig(
            width=config.width, layers=config.layers, feed_forward=config.feed_forward
        )
        self.stack = ResidualStack(sizes, core, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.positions = config.positions

    def initial_state(
        self, batch_size: int, device: torch.device | None = None
    ) -> LanguageModelState:
        """The state before the first word."""
        time = torch.zeros(batch_size, device=device)
        return LanguageModelState(self.stack.initial_state(batch_size, device), time)

    @override
    def forward(
        self, words: Int[Tensor, "B T"], state: LanguageModelState, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T D"], LanguageModelState]:
        """Features that predict the word after each of these, and the state after the last.

        Nothing before ``starts``, the words that open a text, is remembered.
        """
        x = self.words.embed(words)
        x = x * math.sqrt(x.shape[-1])
        time = time_in_episode(starts, state.time)
        if self.positions == "sinusoidal":
            x = x + sinusoids(time - 1, x.shape[-1])
        y, stack = self.stack.unroll(self.dropout(x), state.stack, starts)
        return self.dropout(y), LanguageModelState(stack, time[:, -1])


def sinusoids(time: Float[Tensor, "*B"], size: int) -> Float[Tensor, "*B size"]:
    """Sines, then cosines, of times at frequencies from 1 down to 1/10000 (Vaswani et al. 2017)."""
    rates = 10_000.0 ** -(torch.arange(0, size, 2, device=time.device) / size)
    angle = time.unsqueeze(-1) * rates
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompt: Int[Tensor, "B T"],
    length: int,
    temperature: float,
    generator: torch.Generator,
) -> Int[Tensor, "B length"]:
    """Words that continue the prompts, each drawn given all before it.

    The prompts are read at once; then each word costs one step, however long the text is.

    Args:
        model: Is in evaluation mode afterwards.
        prompt: The beginnings of the texts, of at least one word.
        length: Number of words to draw.
        temperature: Divides log probabilities; 0 takes the most probable word each time.
        generator: The only source of randomness, on the model's device.
    """
    model.eval()
    state = model.initial_state(len(prompt), prompt.device)
    words, drawn = prompt, [prompt[:, :0]]
    for _ in range(length):
        starts = torch.zeros_like(words, dtype=torch.bool)
        x, state = model(words, state, starts)
        words = _draw(model.words.log_probabilities(x[:, -1]), temperature, generator)
        drawn.append(words)
    return torch.cat(drawn, dim=1)


def _draw(
    log_probabilities: Float[Tensor, "B size"], temperature: float, generator: torch.Generator
) -> Int[Tensor, "B 1"]:
    if temperature == 0:
        return log_probabilities.argmax(dim=-1, keepdim=True)
    weights = (log_probabilities / temperature).softmax(dim=-1)
    return weights.multinomial(1, generator=generator)
