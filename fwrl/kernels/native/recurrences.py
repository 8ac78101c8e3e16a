"""The recurrences that have a loop over time in C: one specification each.

A specification says what a loop is given and fills; the structure of the call, the operator of
PyTorch, its buffers and its gradients follow from it. In each an episode begins with zeros, unless
it is given what to begin with. The callers ask ``recurs_natively`` whether the library is there.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.native.loop import Loop
from fwrl.kernels.native.operators import register
from fwrl.state import one_before

Tensors = Mapping[str, Tensor]


class GRU(NamedTuple):
    """E3: reset gate, update gate and candidate, E of each after one another."""

    # the input times the slow weights
    projected: Float[Tensor, "B T E3"]
    recurrent: Float[Tensor, "E3 E"]
    bias: Float[Tensor, " E3"]
    hidden: Float[Tensor, "B E"]
    starts: Bool[Tensor, "B T"]


def _recurrent_of_gru(inputs: GRU, saved: Tensors, gradients: Tensors) -> Tensor:
    seen = one_before(inputs.hidden, saved["output"], inputs.starts)
    return gradients["recurrent_part"].flatten(0, 1).mT @ seen.flatten(0, 1)


gru = register(
    Loop(
        name="gru",
        inputs=GRU,
        sizes={"size": "E"},
        products="B T E3 E",
        outputs={"output": "B T E"},
        # the gates, and the recurrent part of the candidate
        saved={"gates": "B T E3", "inner": "B T E"},
        read_again=("output",),
        # as that of the projected input, but for the candidate, whose recurrent part is reset
        buffers={"recurrent_part": "B T E3"},
        in_torch={
            "recurrent": _recurrent_of_gru,
            "bias": lambda _, __, gradients: gradients["recurrent_part"].flatten(0, 1).sum(0),
        },
    )
)


class LSTM(NamedTuple):
    """E4: the gates input, forget, cell and output, E of each after one another."""

    # the input times the slow weights
    projected: Float[Tensor, "B T E4"]
    recurrent: Float[Tensor, "E4 E"]
    hidden: Float[Tensor, "B E"]
    cell: Float[Tensor, "B E"]
    starts: Bool[Tensor, "B T"]
    # added to the forget gate before its sigmoid
    forget_bias: float


def _recurrent_of_lstm(inputs: LSTM, saved: Tensors, gradients: Tensors) -> Tensor:
    seen = one_before(inputs.hidden, saved["output"], inputs.starts)
    return gradients["projected"].flatten(0, 1).mT @ seen.flatten(0, 1)


lstm = register(
    Loop(
        name="lstm",
        inputs=LSTM,
        sizes={"size": "E"},
        products="B T E4 E",
        outputs={"output": "B T E", "end_cell": "B E"},
        saved={"gates": "B T E4", "cells": "B T E"},
        read_again=("output",),
        in_torch={"recurrent": _recurrent_of_lstm},
    )
)


class RecurrentDelta(NamedTuple):
    """P = 3 K + 1: query, key, value, and the strength of the write."""

    # the input times the slow weights
    projected: Float[Tensor, "B T H P"]
    # multiplied by tanh of the last output, and added
    recurrent: Float[Tensor, "H K P"]
    state: Float[Tensor, "B H K K"]
    last: Float[Tensor, "B H K"]
    starts: Bool[Tensor, "B T"] | None


def _recurrent_of_delta(inputs: RecurrentDelta, saved: Tensors, gradients: Tensors) -> Tensor:
    seen = one_before(inputs.last, saved["output"], inputs.starts).tanh()
    seen, found = (x.flatten(0, 1).transpose(0, 1) for x in (seen, gradients["projected"]))
    return torch.bmm(seen.mT, found)


recurrent_delta = register(
    Loop(
        name="recurrent_delta",
        inputs=RecurrentDelta,
        sizes={"size": "K"},
        products="B T H P K",
        outputs={"output": "B T H K", "end": "B H K K"},
        # query, key, what was written before beta, and beta
        saved={"written": "B T H P", "checkpoints": "B H N K K"},
        read_again=("output",),
        in_torch={"recurrent": _recurrent_of_delta},
    )
)


class FastRecurrence(NamedTuple):
    """G H heads of matrices: those of the first gate, then those of the next; G is 1 or 3."""

    # added to what is read from the recurrent weights
    read: Float[Tensor, "B T GH K"]
    # written to them
    key: Float[Tensor, "B T GH K"]
    value: Float[Tensor, "B T GH K"]
    beta: Float[Tensor, "B T GH 1"]
    state: Float[Tensor, "B GH K K"]
    last: Float[Tensor, "B H K"]
    # only of the LSTM
    cell: Float[Tensor, "B H K"] | None
    starts: Bool[Tensor, "B T"] | None


fast_recurrence = register(
    Loop(
        name="fast_recurrence",
        inputs=FastRecurrence,
        sizes={"size": "K", "matrices": "GH"},
        products="B T GH K K",
        outputs={"output": "B T H K", "end": "B GH K K", "end_cell": "B H K"},
        # the error is what was written before beta
        saved={
            "error": "B T GH K",
            "gates": "B T GH K",
            "cells": "B T H K",
            "checkpoints": "B GH N K K",
        },
        read_again=("output",),
        only_with=dict.fromkeys(("end_cell", "gates", "cells"), "cell"),
    )
)


class FastWeightMemory(NamedTuple):
    """K = V V: a key is the tensor product of its two parts."""

    # both parts of the key, and the value
    triple: Float[Tensor, "B T 3 V"]
    beta: Float[Tensor, "B T 1"]
    # where the chain of reads begins, and the edge that each takes
    path: Float[Tensor, "B T P V"]
    state: Float[Tensor, "B K V"]
    starts: Bool[Tensor, "B T"] | None


fast_weight_memory = register(
    Loop(
        name="fast_weight_memory",
        inputs=FastWeightMemory,
        sizes={"size": "V", "path_length": "P"},
        products="B K V T P",
        # the node at which each time's chain ends, and the last weights
        outputs={"output": "B T V", "end": "B K V"},
        # what was written before beta, each read before it was normalised, and the factor of the
        # weights after the write
        saved={"error": "B T V", "found": "B T P-1 V", "scale": "B T", "checkpoints": "B N K V"},
    )
)


class SelfReferential(NamedTuple):
    """V = 3 K + 4: the columns that make the output, the query, the key and four strengths."""

    address: Float[Tensor, "B T H K"]
    state: Float[Tensor, "B H K V"]
    # the weights that episodes begin with
    fresh: Float[Tensor, "H K V"]
    starts: Bool[Tensor, "B T"] | None


self_referential = register(
    Loop(
        name="self_referential",
        inputs=SelfReferential,
        sizes={"size": "K"},
        products="B T H K V",
        # the reads, each before the write of its time, and the last weights
        outputs={"output": "B T H K", "end": "B H K V"},
        # all columns that were read, after softmax and sigmoid; the difference that is written
        saved={"columns": "B T H V", "change": "B T H V", "checkpoints": "B H N K V"},
        # C fills one for each stream
        buffers={"fresh": "B H K V"},
        in_torch={"fresh": lambda _, __, gradients: gradients["fresh"].sum(0)},
    )
)
