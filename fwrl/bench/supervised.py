"""What supervised sequence tasks train with: a learner that can be saved, losses and accuracies."""

import math
import operator
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fwrl.bench.sequence_model import SequenceModel
from fwrl.config import Config
from fwrl.feature_maps.random import redraw_when_due
from fwrl.files.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_optimizer,
    load_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from fwrl.state import map_tensors, tensors_in

# Tokens and targets; a negative target asks nothing.
Batch = tuple[Tensor, Tensor]
CHECKPOINT = "checkpoint"


class TrainingConfig(Config):
    """How a model is trained; the published recipes are presets of the benchmarks."""

    steps: NonNegativeInt = 1000
    """Updates, of one batch each."""
    batch_size: PositiveInt = 32
    """Sequences, or streams, of each."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Adam (Kingma and Ba 2015), or the same with decoupled decay (Loshchilov and Hutter 2019)."""
    learning_rate: PositiveFloat = 3e-3
    """Step size of the optimiser, after the warm-up and before the schedule lowers it."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How slowly the means of the gradient and of its square move."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the mean squared gradient before it divides a step."""
    weight_decay: NonNegativeFloat = 0.01
    """Of adamw; adam has none."""
    warmup_steps: NonNegativeInt = 0
    """Updates in which the learning rate rises from zero."""
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "cosine"
    """Of the learning rate after the warm-up: ``cosine`` falls to zero along half of one,
    ``inverse_sqrt`` with the root of the number of updates (Vaswani et al. 2017)."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Longer gradients are shortened to it; None: never."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of the update after ``step`` others."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(config.warmup_steps, 1) / (step + 1))
    share = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * (1 + math.cos(math.pi * min(share, 1))) / 2


class Learner:
    """A model, its optimiser, and how many updates they have had."""

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

        Of several, each is computed when the gradient of the one before is known: so a batch can
        be larger than the memory.
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
        """Write ``folder/checkpoint``, from which ``restore`` goes on as if nothing had happened.

        Args:
            folder: Of this training.
            generator: Of its data; torch's own is saved as well.
            carried: A nested state that goes from batch to batch.
            rows: What was measured on the way.
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
        save_checkpoint(folder / CHECKPOINT, tensors, {"step": self.step, "rows": rows or []})

    def restore(
        self, folder: Path, generator: torch.Generator, carried: Any = ()
    ) -> tuple[Any, list[dict[str, Any]]] | None:
        """Go on from ``folder/checkpoint``; None if there is none.

        Args:
            folder: Of this training.
            generator: Set to where it was.
            carried: Anything of the nesting that was saved.

        Returns:
            What was carried, and the rows.

        Raises:
            CheckpointError: If the checkpoint is damaged or does not fit.
        """
        if not (folder / CHECKPOINT).is_dir():
            return None
        content = load_checkpoint(folder / CHECKPOINT)
        try:
            return self._take(content, str(folder), generator, carried)
        except (KeyError, TypeError, RuntimeError, StopIteration) as error:
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


def train_supervised(
    model: SequenceModel, make_batch: Callable[[], Batch], config: TrainingConfig
) -> list[float]:
    """The loss of each step. Every sequence begins with an empty memory.

    Args:
        model: Trained in place.
        make_batch: A new batch each time it is called; it brings its own generator.
        config: Of the optimiser; the batches have the size that they have.
    """
    model.train()
    learner = Learner(model, config)
    # one tensor: many small ones that stay would pin the memory between the large ones that go
    losses = torch.empty(config.steps)
    while learner.step < config.steps:
        loss = cross_entropy(model, make_batch())
        learner.update(loss)
        losses[learner.step - 1] = loss.detach()
    return losses.tolist()


def cross_entropy(model: SequenceModel, batch: Batch) -> Float[Tensor, ""]:
    """The mean over all that is asked, in nats."""
    tokens, targets = batch
    return F.cross_entropy(answers(model, tokens).flatten(0, 1), targets.flatten())


@torch.no_grad()
def accuracy(model: SequenceModel, batches: Iterable[Batch]) -> float:
    """The share of right answers among all that is asked in the batches."""
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
