"""The loop of the supervised sequence tasks: cross entropy where a target is given."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from fwrl.random_features import redraw_when_due
from fwrl.sequence_model import SequenceModel

# Tokens and targets, as of ``fwrl.tasks``; a negative target asks nothing.
Batch = tuple[Tensor, Tensor]


def train_supervised(
    model: SequenceModel,
    make_batch: Callable[[], Batch],
    steps: int,
    learning_rate: float = 3e-3,
    max_grad_norm: float = 1.0,
) -> list[float]:
    """The loss of each step. Every sequence begins with an empty memory.

    Args:
        model: Trained in place.
        make_batch: A new batch each time it is called; it brings its own generator.
        steps: Of AdamW (Loshchilov and Hutter 2019), one batch each.
        learning_rate: At first; it falls to zero along half a cosine.
        max_grad_norm: Longer gradients are shortened to it.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    losses: list[Tensor] = []
    for _ in range(steps):
        tokens, targets = make_batch()
        loss = F.cross_entropy(answers(model, tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        schedule.step()
        redraw_when_due(model)
        losses.append(loss.detach())
    return torch.stack(losses).tolist() if losses else []


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
