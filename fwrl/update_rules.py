"""Update rules: how one key-value pair is written into the fast weights.

A rule is a pure function of one time. Axes: B streams, H heads, K key features, V value size. The
fast weights are ``[B, H, K, V]`` and are read by ``query @ weights``; papers that read by
``weights @ query`` hold the transpose.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fwrl.shapes import FastWeights


class Write(NamedTuple):
    """What the slow network asks to have written, at one time or at each of T times.

    A rule takes the fields it knows and ignores the others.
    """

    key: Float[Tensor, "*BT H K"]
    value: Float[Tensor, "*BT H V"]
    # write strength, in [0, 1], or in [0, 2] to let the delta rule reflect
    beta: Float[Tensor, "*BT H 1"] | None = None
    # how much of the fast weights survives until this write, in [0, 1]
    decay: Float[Tensor, "*BT H 1"] | None = None


UpdateRule = Callable[[Tensor, Write], Tensor]


def read(weights: FastWeights, query: Float[Tensor, "B H K"]) -> Float[Tensor, "B H V"]:
    """The value stored at an address."""
    return torch.matmul(query.unsqueeze(-2), weights).squeeze(-2)


def sum_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Add the value at the key: linear attention (Katharopoulos et al. 2020)."""
    return _add(weights, write.key, write.value)


def delta_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Write the error, not the value (Schlag et al. 2021).

    One step of gradient descent, of size ``beta``, on the squared error of reading the key. With
    ``beta = 1`` and a unit key, reading the key back returns exactly the value.
    """
    assert write.beta is not None, "the delta rule needs beta"
    error = write.value - read(weights, write.key)
    return _add(weights, write.key, write.beta * error)


def gated_sum_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Interpolate between the old weights and the new pair (Peng et al. 2021).

    Unlike the delta rule it weakens every association, also those at other keys.
    """
    assert write.beta is not None, "the gated sum rule needs beta"
    kept = (1.0 - write.beta).unsqueeze(-1) * weights
    return _add(kept, write.key, write.beta * write.value)


def decayed_sum_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Decay, then add (Sun et al. 2023; Dao and Gu 2024).

    A gated sum whose decay is not tied to the write strength.
    """
    assert write.beta is not None, "the decayed sum rule needs beta"
    assert write.decay is not None, "the decayed sum rule needs decay"
    kept = write.decay.unsqueeze(-1) * weights
    return _add(kept, write.key, write.beta * write.value)


def gated_delta_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Decay first; the error is then that of the decayed weights (Yang et al. 2024)."""
    assert write.decay is not None, "the gated delta rule needs decay"
    return delta_rule(write.decay.unsqueeze(-1) * weights, write)


def _add(
    weights: FastWeights, key: Float[Tensor, "B H K"], value: Float[Tensor, "B H V"]
) -> FastWeights:
    return torch.addcmul(weights, key.unsqueeze(-1), value.unsqueeze(-2))


UPDATE_RULES: dict[str, UpdateRule] = {
    "sum": sum_rule,
    "delta": delta_rule,
    "gated_sum": gated_sum_rule,
    "decayed_sum": decayed_sum_rule,
    "gated_delta": gated_delta_rule,
}
