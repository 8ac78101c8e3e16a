"""Tokens in, logits out: the memory stack of the agents on supervised sequences."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from fwrl.cores import CoreConfig
from fwrl.stack import ResidualStack, StackConfig


class SequenceModel(nn.Module):
    """Embeddings of the tokens of each time, a residual stack, and one linear layer.

    Its state is the stack's. A negative token means that the field is absent at that time: it adds
    nothing.
    """

    def __init__(
        self,
        vocabulary: Sequence[int],
        num_classes: int,
        stack: StackConfig,
        core: CoreConfig,
        dropout: float = 0.0,
    ) -> None:
        """Random slow weights, from torch's global generator.

        Args:
            vocabulary: How many tokens each field has; one field or several.
            num_classes: How many logits there are.
            stack: The layers.
            core: The memory in each of them.
            dropout: The share that the stack drops in training.
        """
        super().__init__()
        # row 0 is that of absent tokens, all zeros, and is not trained
        self.embeddings = nn.ModuleList(
            nn.Embedding(size + 1, stack.width, padding_idx=0) for size in vocabulary
        )
        self.stack = ResidualStack(stack, core, dropout)
        self.logits = nn.Linear(stack.width, num_classes)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> tuple[Any, ...]:
        """The state of streams that have seen nothing."""
        return self.stack.initial_state(batch_size, device)

    @override
    def forward(
        self, tokens: Int[Tensor, "B T *F"], state: tuple[Any, ...], starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T classes"], tuple[Any, ...]]:
        """Logits at every time, and the state after the last.

        Args:
            tokens: ``[B, T]``, or ``[B, T, F]`` for several fields.
            state: What the streams remember before the first time.
            starts: The times that open a sequence: nothing before them is remembered.
        """
        y, state = self.stack.unroll(self._embed(tokens), state, starts)
        return self.logits(y), state

    def _embed(self, tokens: Int[Tensor, "B T *F"]) -> Float[Tensor, "B T D"]:
        fields = tokens.unsqueeze(-1) if tokens.dim() == 2 else tokens
        rows = (fields + 1).clamp_min(0).unbind(-1)
        return torch.stack([e(r) for e, r in zip(self.embeddings, rows, strict=True)]).sum(0)
