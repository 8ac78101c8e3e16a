"""A language model's training by truncated backpropagation through time, and its evaluations.

The rows of a batch are contiguous pieces of the corpus, read segment by segment. The state is
either carried from one segment to the next, without a gradient, or reset before each.
"""

import math
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwrl.bench.benchmark import Progress, Row
from fwrl.bench.lm.model import LanguageModel, LanguageModelState
from fwrl.bench.lm.text import Tokens, in_rows, segment, windows
from fwrl.bench.supervised import Learner
from fwrl.config import ConfigError
from fwrl.run.process import Clock
from fwrl.state import detach_state

# Seconds between two looks at the loss: each waits for the device.
LOOK = 0.5


class Evaluation(NamedTuple):
    """The result of an evaluation, in nats per token."""

    loss: float
    tokens: int

    @property
    def row(self) -> Row:
        """The columns of the results."""
        return {
            "bits": round(self.loss / math.log(2), 5),
            # the exponential overflows above
            "perplexity": round(math.exp(min(self.loss, 700.0)), 4),
            "asked": self.tokens,
        }


class Segments(NamedTuple):
    """The segments in which a text is read, in training and in evaluation."""

    # time steps in each
    length: int
    # whether the state is carried from one to the next
    carry: bool


def losses(
    model: LanguageModel,
    inputs: Int[Tensor, "B T"],
    targets: Int[Tensor, "B S"],
    state: LanguageModelState,
) -> tuple[Float[Tensor, " BS"], LanguageModelState]:
    """The losses of the targets, which belong to the last S times, and the state after them."""
    starts = torch.zeros_like(inputs, dtype=torch.bool)
    x, state = model(inputs, state, starts)
    asked = x[:, x.shape[1] - targets.shape[1] :]
    return model.words.losses(asked.flatten(0, 1), targets.flatten()), state


def train(
    learner: Learner,
    model: LanguageModel,
    tokens: Tokens,
    segments: Segments,
    folder: Path,
    save_every: float,
    measured: Callable[[int], list[Row]],
) -> Generator[Progress, None, list[Row]]:
    """Train to the end; returns the rows measured on the way.

    Training continues from the checkpoint in ``folder``, and leaves the trained model there.

    Args:
        learner: Its configuration has the number of updates and of rows in a batch.
        model: Trained in place.
        tokens: The training text, on the model's device. A carried state is reset where the text
            begins anew.
        segments: The segments in which the text is read.
        folder: Holds the checkpoint.
        save_every: Seconds between two checkpoints.
        measured: Called after each update with their number; returns rows to keep.
    """
    config = learner.config
    rows = in_rows(tokens, config.batch_size)
    per_epoch = (rows.shape[1] - 1) // segments.length
    if per_epoch < 1:
        raise ConfigError(
            f"corpus: {len(tokens)} tokens are less than one segment of {segments.length} in each "
            f"of {config.batch_size} rows; use a longer text, or a smaller length or batch_size"
        )
    fresh = detach_state(model.initial_state(config.batch_size, rows.device))
    # nothing is random but dropout, which torch's own generator draws
    generator = torch.Generator()
    state, found = learner.restore(folder, generator, fresh)
    saving, looking, note = Clock(save_every), Clock(LOOK), ""
    while learner.step < config.steps:
        model.train()
        index = learner.step % per_epoch
        if index == 0 or not segments.carry:
            # anew each time: an initial state may be learned
            state = model.initial_state(config.batch_size, rows.device)
        each, state = losses(model, *segment(rows, index, segments.length), state)
        loss, state = each.mean(), detach_state(state)
        learner.update(loss)
        found = found + measured(learner.step)
        if saving.due():
            learner.save(folder, generator, state, found)
        if looking.due():
            note = f"{loss.item() / math.log(2):.3f} bits"
        yield Progress(learner.step, config.steps, note)
    learner.save(folder, generator, state, found)
    return found


@torch.no_grad()
def mean_loss(model: LanguageModel, each: Iterator[Float[Tensor, " N"]]) -> Evaluation:
    """The mean over all predicted tokens."""
    model.eval()
    # double precision: many millions of losses are added up
    total, count = 0.0, 0
    for some in each:
        total += some.double().sum().item()
        count += len(some)
    return Evaluation(total / count, count)


def in_segments(
    model: LanguageModel, tokens: Tokens, segments: Segments, rows: int
) -> Iterator[Float[Tensor, " N"]]:
    """The losses of a whole text but its first token, read in segments.

    ``rows`` pieces of the text are read side by side, each from an empty state; a text too short
    for them is read in fewer. The model is in evaluation mode.
    """
    pieces = in_rows(tokens, max(min(rows, len(tokens) // 2), 1))
    fresh = state = model.initial_state(len(pieces), tokens.device)
    for index in range(-(-(pieces.shape[1] - 1) // segments.length)):
        if not segments.carry:
            state = fresh
        each, state = losses(model, *segment(pieces, index, segments.length), state)
        yield each


def in_windows(
    model: LanguageModel, tokens: Tokens, length: int, stride: int, batch_size: int
) -> Iterator[Float[Tensor, " N"]]:
    """The losses of a whole text but its first token, by sliding windows from an empty state.

    Windows of ``length`` tokens move by ``stride`` tokens, which are those predicted in each;
    ``batch_size`` windows are read side by side. The model is in evaluation mode.
    """
    for inputs, targets in windows(tokens, length, stride, batch_size):
        state = model.initial_state(len(inputs), tokens.device)
        yield losses(model, inputs, targets, state)[0]
