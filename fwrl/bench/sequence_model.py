"""Supervised sequence models: tokens in, logits out, around the memory stack of the agents."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from fwrl.bench.benchmark import Row
from fwrl.config import validate
from fwrl.core import state_size
from fwrl.cores import CORES, CoreConfig, CoresConfig
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.stack import ResidualStack, StackConfig

# The token of a field that is empty at a time.
ABSENT = -1
# The target at times without a question; torch's cross entropy skips it.
NOT_ASKED = -100
# Fast weights as linear attention: a sum over time, divided by the sum of its weights.
LINEAR_ATTENTION = {"update_rule": "sum", "normalise": "none", "attention_normaliser": True}


class Batch(NamedTuple):
    """Sequences, padded at their ends with ``ABSENT``, and the class asked for at each time."""

    # one field or several
    tokens: Int[Tensor, "B T *F"]
    # ``NOT_ASKED`` at times without a question
    targets: Int[Tensor, "B T"]


class SequenceModel(nn.Module):
    """Embeddings of the tokens of each time, a residual stack, and one linear layer.

    Its state is the stack's. A negative token means that the field is absent at that time and adds
    nothing to the embedding.
    """

    def __init__(
        self,
        vocabulary: Sequence[int],
        num_classes: int,
        stack: StackConfig,
        core: CoresConfig,
        dropout: float = 0.0,
    ) -> None:
        """Random slow weights, from torch's global generator.

        Args:
            vocabulary: How many tokens each field has; one field or several.
            num_classes: How many logits there are.
            stack: The layers.
            core: The memory in every layer, or a list of one for each.
            dropout: The share that the stack drops in training.
        """
        super().__init__()
        # row 0 stands for absent tokens: all zeros, not trained
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
            state: The memory of the streams before the first time.
            starts: The times that open a sequence: nothing before them is remembered.
        """
        y, state = self.stack.unroll(self._embed(tokens), state, starts)
        return self.logits(y), state

    def _embed(self, tokens: Int[Tensor, "B T *F"]) -> Float[Tensor, "B T D"]:
        fields = tokens.unsqueeze(-1) if tokens.dim() == 2 else tokens
        rows = (fields + 1).clamp_min(0).unbind(-1)
        return torch.stack([e(r) for e, r in zip(self.embeddings, rows, strict=True)]).sum(0)


def core_config(method: str, values: Mapping[str, Any], sizes: Mapping[str, Any]) -> CoreConfig:
    """The memory of a method.

    Args:
        method: Opens the message of a mistake.
        values: Differences from the core's defaults; without a ``kind``: fast weights, as they
            were when the first results were published, the plain delta rule.
        sizes: Shared by all methods; a core takes those for which it has a field.
    """
    model = CORES[values.get("kind", "fast_weight")]
    fitting = {name: value for name, value in sizes.items() if name in model.model_fields}
    plain = model.former if model is FastWeightConfig else {}
    return validate(model, {**plain, **fitting, **values}, method)


def count_parameters(model: nn.Module) -> int:
    """The number of all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def sizes_of(model: SequenceModel) -> Row:
    """The columns that say how large a model and its memory are."""
    return {"parameters": count_parameters(model), "state_size": state_size(model.stack)}
