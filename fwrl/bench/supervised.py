"""Supervised training on sequences: a learner that can be saved, losses and accuracies."""

import math
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fwrl.bench.sequence_model import Batch, SequenceModel
from fwrl.config import Config
from fwrl.feature_maps.random import redraw_when_due
from fwrl.files.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    recover_checkpoint,
    save_checkpoint,
)
from fwrl.files.plain_files import set_aside
from fwrl.run.progress import say
from fwrl.state import map_tensors, tensors_in

CHECKPOINT = "checkpoint"


class TrainingConfig(Config):
    """How a model is trained; the published recipes are presets of the benchmarks."""

    steps: NonNegativeInt = 1000
    """Number of updates; each uses one batch."""
    batch_size: PositiveInt = 32
    """Sequences, or streams, in a batch."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Adam (Kingma and Ba 2015), or the same with decoupled decay (Loshchilov and Hutter 2019)."""
    learning_rate: PositiveFloat = 3e-3
    """Step size of the optimiser, after the warm-up and before the schedule lowers it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the running means of the gradient and of its square."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the mean squared gradient before it divides a step."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay of the weights by adamw; adam has none."""
    warmup_steps: NonNegativeInt = 0
    """Updates in which the learning rate rises from zero."""
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "cosine"
    """Learning rate after the warm-up: ``cosine`` falls to zero along half a cosine,
    ``inverse_sqrt`` with the square root of the number of updates (Vaswani et al. 2017)."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Longer gradients are scaled down to this norm; None: never."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of the update that follows ``step`` others."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(config.warmup_steps, 1) / (step + 1))
    share = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * min(share, 1))) / 2


class Learner:
    """A model, its optimiser, and the number of updates so far."""

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        self.model, self.config, self.step = model, config, 0
        parameters = [each for each in model.parameters() if each.requires_grad]
        decoupled = config.optimizer == "adamw"
        self.optimizer = (torch.optim.AdamW if decoupled else torch.optim.Adam)(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay if decoupled else 0.0,
        )

    def update(self, loss: Float[Tensor, ""] | Iterable[Float[Tensor, ""]]) -> None:
        """One step down the gradient of the loss, or of the sum of several.

        Several losses are computed one after the other, each after the backward pass of the one
        before, so that a batch can be larger than the device's memory.
        """
        self.optimizer.zero_grad()
        for part in [loss] if isinstance(loss, Tensor) else loss:
            part.backward()
        if self.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.step()
        redraw_when_due(self.model)
        self.step += 1

    def save(
        self,
        folder: Path,
        generator: torch.Generator,
        carried: Any = (),
        rows: list[dict[str, Any]] | None = None,
    ) -> None:
        """Write ``folder/checkpoint``, from which ``restore`` continues exactly.

        Args:
            folder: Belongs to this training alone.
            generator: Draws the data; torch's own generator is saved as well.
            carried: A nested state that goes from batch to batch.
            rows: Measured on the way.
        """
        generators = {"data": generator.get_state(), "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "generators": generators,
            "carried": {str(i): leaf for i, leaf in enumerate(tensors_in(carried))},
        }
        try:
            save_checkpoint(folder / CHECKPOINT, tensors, {"step": self.step, "rows": rows or []})
        except OSError as error:
            # the older one stays, and the next one may find space
            say(Console(stderr=True), f"{folder / CHECKPOINT}: not saved ({error.strerror})")

    def restore(
        self, folder: Path, generator: torch.Generator, carried: Any = ()
    ) -> tuple[Any, list[dict[str, Any]]]:
        """Continue from ``folder/checkpoint``, if there is one; a damaged one is kept elsewhere.

        Args:
            folder: Belongs to this training alone.
            generator: Set to its saved state.
            carried: The state that goes from batch to batch, before the first of them.

        Returns:
            The saved state and rows; without a checkpoint ``carried`` and no rows.

        Raises:
            CheckpointError: If the checkpoint does not fit.
        """
        recover_checkpoint(folder / CHECKPOINT)
        if not os.path.lexists(folder / CHECKPOINT):
            return carried, []
        try:
            content = load_checkpoint(folder / CHECKPOINT)
        except CheckpointError as error:
            kept = set_aside(folder / CHECKPOINT)
            say(Console(stderr=True), f"{error}; it is now {kept.name}, and training begins anew")
            return carried, []
        try:
            return self._take(content, str(folder), generator, carried)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, StopIteration) as error:
            raise CheckpointError(f"{folder}: holds another training ({error!r})") from None

    def _take(
        self, content: Checkpoint, where: str, generator: torch.Generator, carried: Any
    ) -> tuple[Any, list[dict[str, Any]]]:
        tensors, document = content
        load_tensors(self.model, tensors["model"], where)
        load_optimizer(self.optimizer, tensors["optimizer"])
        generator.set_state(tensors["generators"]["data"])
        torch.set_rng_state(tensors["generators"]["torch"])
        if "cuda" in tensors["generators"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["generators"]["cuda"])
        rows: list[dict[str, Any]] = list(map(dict, document["rows"]))
        self.step = operator.index(document["step"])
        leaves = iter(range(len(tensors["carried"])))

        def saved(leaf: Tensor) -> Tensor:
            return tensors["carried"][str(next(leaves))].to(leaf.device)

        return map_tensors(saved, carried), rows


def cross_entropy(model: SequenceModel, batch: Batch) -> Float[Tensor, ""]:
    """The mean loss over all questions, in nats."""
    tokens, targets = batch
    return F.cross_entropy(answers(model, tokens).flatten(0, 1), targets.flatten())


@torch.no_grad()
def accuracy(model: SequenceModel, batches: Iterable[Batch]) -> float:
    """The share of questions in the batches that are answered right."""
    model.eval()
    right = asked = 0
    for tokens, targets in batches:
        given = targets >= 0
        right += (answers(model, tokens).argmax(-1) == targets)[given].sum().item()
        asked += given.sum().item()
    return right / asked


def answers(model: SequenceModel, tokens: Int[Tensor, "B T *F"]) -> Float[Tensor, "B T classes"]:
    """The logits for whole sequences that begin with an empty memory."""
    state = model.initial_state(tokens.shape[0], tokens.device)
    starts = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return model(tokens, state, starts)[0]
