"""Update rules: how one key-value pair is written into the fast weights.

A rule is a pure function of one time; its record in ``UPDATE_RULES`` says all that kernels,
configurations and recall maps know of it. Axes: B streams, H heads, K key features, V value size.
The fast weights are ``[B, H, K, V]`` and are read by ``query @ weights``; papers that read by
``weights @ query`` hold the transpose.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.state import FastWeights

# Keys of a smaller squared length count as of this one in an exact step. Its value changes by half
# of this at most; below, the gradient would be a difference of rounding errors.
SHORTEST = 1e-6


class Write(NamedTuple):
    """The request of the slow network to write, at one time or at each of T times.

    A rule takes the fields it knows and ignores the others.
    """

    key: Float[Tensor, "*BT H K"]
    value: Float[Tensor, "*BT H V"]
    # write strength, in [0, 1], or in [0, 2] to let the delta rule reflect
    beta: Float[Tensor, "*BT H 1"] | None = None
    # how much of the fast weights survives until this write, in [0, 1]; of all or of each key
    # feature
    decay: Float[Tensor, "*BT H #K"] | None = None
    # where the old value is looked up, if not at the key, and how much each key feature of it
    # counts, in [0, 1], or in [0, 2] as for beta
    removal_key: Float[Tensor, "*BT H K"] | None = None
    removal_rate: Float[Tensor, "*BT H K"] | None = None


class ScanInputs(NamedTuple):
    """A sequence of writes and reads of the fast weights, at each of T times."""

    # what the streams had written before
    state: FastWeights
    query: Float[Tensor, "B T H K"]
    write: Write
    # where True, ``fresh`` replaces the state before the write
    starts: Bool[Tensor, "B T"]
    # the state that an episode begins with, for one or for each stream; None means zeros
    fresh: Float[Tensor, "#B H K V"] | None = None

    def fresh_or_zeros(self) -> Float[Tensor, "#B H K V"]:
        """The state that an episode begins with."""
        return torch.zeros_like(self.state) if self.fresh is None else self.fresh


UpdateRule = Callable[[Tensor, Write], Tensor]


def read(weights: FastWeights, query: Float[Tensor, "B H K"]) -> Float[Tensor, "B H V"]:
    """The value stored at an address."""
    return torch.matmul(query.unsqueeze(-2), weights).squeeze(-2)


def sum_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Add the value at the key: linear attention (Katharopoulos et al. 2020).

    ``W <- W + k v``
    """
    return _add(weights, write.key, write.value)


def delta_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Write the error, not the value (Schlag et al. 2021a).

    ``W <- W + beta k (v - k W)``

    One step of gradient descent, of size ``beta``, on the squared error of reading the key. With
    ``beta = 1`` and a unit key, reading the key back returns exactly the value.
    """
    assert write.beta is not None, "the delta rule needs beta"
    error = write.value - read(weights, write.key)
    return _add(weights, write.key, write.beta * error)


def gated_sum_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Interpolate between the old weights and the new pair (Peng et al. 2021).

    ``W <- (1 - beta) W + beta k v``

    Unlike the delta rule it weakens every association, also those at other keys.
    """
    assert write.beta is not None, "the gated sum rule needs beta"
    kept = (1.0 - write.beta).unsqueeze(-1) * weights
    return _add(kept, write.key, write.beta * write.value)


def decayed_sum_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Decay, then add (Sun et al. 2023; Dao and Gu 2024).

    ``W <- a W + beta k v``

    A gated sum whose decay is not tied to the write strength.
    """
    assert write.beta is not None, "the decayed sum rule needs beta"
    assert write.decay is not None, "the decayed sum rule needs decay"
    kept = write.decay.unsqueeze(-1) * weights
    return _add(kept, write.key, write.beta * write.value)


def gated_delta_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Decay first, then write the error of the decayed weights (Yang et al. 2024b).

    ``W <- a W + beta k (v - a k W)``
    """
    assert write.decay is not None, "the gated delta rule needs decay"
    return delta_rule(write.decay.unsqueeze(-1) * weights, write)


def kda_rule(weights: FastWeights, write: Write) -> FastWeights:
    """The gated delta rule with a decay for each key feature: KDA (Kimi Team 2025).

    ``W <- A W + beta k (v - k A W), A = diag(a)``
    """
    return gated_delta_rule(weights, write)


def gated_delta_2_rule(weights: FastWeights, write: Write) -> FastWeights:
    """KDA with gates of its own for erasing and for writing (Hatamizadeh et al. 2026).

    ``W <- A W + k (w * v - (b * k) A W), A = diag(a)``

    It can erase without writing, and write some of a value. The erase gate ``b``, for each key
    feature, is given as the removal rate; the value is given with its gate ``w`` applied.
    """
    assert write.decay is not None, "the gated delta rule 2 needs decay"
    assert write.removal_rate is not None, "the gated delta rule 2 needs a removal rate"
    kept = write.decay.unsqueeze(-1) * weights
    old = read(kept, write.removal_rate * write.key)
    return _add(kept, write.key, write.value - old)


def longhorn_rule(weights: FastWeights, write: Write) -> FastWeights:
    """The delta rule with an implicit step, which never overshoots (Liu et al. 2024).

    ``W <- W + beta / (1 + beta |k|^2) k (v - k W)``

    The new weights are the best trade between staying and storing the value: an implicit step of
    gradient descent, stable for keys of any length.
    """
    return delta_rule(weights, write._replace(beta=implicit_beta(write)))


def implicit_beta(write: Write) -> Float[Tensor, "*BT H 1"]:
    """The write strength with which the delta rule is an implicit step: beta / (1 + beta |k|^2)."""
    assert write.beta is not None, "the longhorn rule needs beta"
    return write.beta / (1.0 + write.beta * write.key.square().sum(dim=-1, keepdim=True))


def efla_rule(weights: FastWeights, write: Write) -> FastWeights:
    """The delta rule with an exact step, which never overshoots (Lei et al. 2025).

    ``W <- W + (1 - exp(-beta |k|^2)) / |k|^2 k (v - k W)``

    The solution of ``dW/dt = k (v - k W)`` after the time beta, where the delta rule takes one
    Euler step and ``longhorn`` an implicit one. A long key replaces all that it reads and a short
    one little, so that keys need no scaling; at length 1 a beta of 1 replaces 63 %.
    """
    return delta_rule(weights, write._replace(beta=exact_beta(write)))


def exact_beta(write: Write) -> Float[Tensor, "*BT H 1"]:
    """The write strength of an exact step: (1 - exp(-beta |k|^2)) / |k|^2, or beta for no key."""
    assert write.beta is not None, "the efla rule needs beta"
    length = write.key.square().sum(dim=-1, keepdim=True).clamp_min(SHORTEST)
    return -torch.expm1(-write.beta * length) / length


def clipped_delta_rule(weights: FastWeights, write: Write) -> FastWeights:
    """The delta rule; fast weights of norm above 1 are scaled to norm 1 (Schlag et al. 2021b).

    ``W <- U / max(1, |U|), U = W + beta k (v - k W)``

    The rule of Fast Weight Memory, as Schlag et al. (2021a) compare it with theirs.
    """
    weights = delta_rule(weights, write)
    return weights / torch.linalg.matrix_norm(weights, keepdim=True).clamp_min(1.0)


def sigmoid_sum_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Add the value at the key, then squash all weights: the first such rule (Schmidhuber 1991).

    ``W <- sigmoid(W + k v)``
    """
    return sum_rule(weights, write).sigmoid()


def generalised_delta_rule(weights: FastWeights, write: Write) -> FastWeights:
    """Decay each key feature, and erase at a key other than the one written (Peng et al. 2025).

    ``W <- A W - (r * p) (p W) + k v, A = diag(a)``

    The rule of RWKV-7. What is removed is looked up at ``p`` before the decay.
    """
    assert write.decay is not None, "the generalised delta rule needs decay"
    assert write.removal_key is not None, "the generalised delta rule needs a removal key"
    assert write.removal_rate is not None, "the generalised delta rule needs a removal rate"
    old = read(weights, write.removal_key)
    kept = _add(write.decay.unsqueeze(-1) * weights, -write.removal_rate * write.removal_key, old)
    return _add(kept, write.key, write.value)


def _add(
    weights: FastWeights, key: Float[Tensor, "B H K"], value: Float[Tensor, "B H V"]
) -> FastWeights:
    return torch.addcmul(weights, key.unsqueeze(-1), value.unsqueeze(-2))


class Rule(NamedTuple):
    """An update rule as its function, and what others need to know of it; called like the function.

    A form describes the recurrence by which faster kernels than the reference scan the rule. It
    adds the value at the key, or the error that is left of the value after reading the key, or
    the value after a removal at another key.
    """

    apply: UpdateRule
    # None: only the reference scans the rule, as it must values with a decay for each feature
    form: Literal["value", "error", "removal"] | None = None
    # the scale of the addition: none, beta, the beta of an implicit or an exact step; or gates of
    # the value and, as removal rates, of the key features
    beta: Literal["none", "given", "implicit", "exact", "gates"] = "given"
    # the share that survives a write: all, what beta leaves, or learned for each head or feature
    decay: Literal["none", "rest", "head", "feature"] = "none"
    # whether the new weights are linear in the old ones, so that reads are sums over writes
    linear: bool = True
    # whether ``fast_weight`` offers the rule, writes several times at one time step under it, and
    # may divide reads by the sum of their weights
    offered: bool = True
    repeats: bool = False
    normalises: bool = False

    def __call__(self, weights: FastWeights, write: Write) -> FastWeights:
        """The fast weights after the write."""
        return self.apply(weights, write)


UPDATE_RULES: dict[str, Rule] = {
    "sum": Rule(sum_rule, "value", beta="none", normalises=True),
    "delta": Rule(delta_rule, "error", repeats=True, normalises=True),
    "gated_sum": Rule(gated_sum_rule, "value", decay="rest", normalises=True),
    "decayed_sum": Rule(decayed_sum_rule, "value", decay="head", normalises=True),
    "gated_delta": Rule(gated_delta_rule, "error", decay="head", repeats=True),
    "kda": Rule(kda_rule, "error", decay="feature", repeats=True),
    "gated_delta_2": Rule(gated_delta_2_rule, "error", beta="gates", decay="feature", repeats=True),
    "longhorn": Rule(longhorn_rule, "error", beta="implicit", repeats=True),
    "efla": Rule(efla_rule, "error", beta="exact", repeats=True),
    "clipped_delta": Rule(clipped_delta_rule, linear=False),
    "sigmoid_sum": Rule(sigmoid_sum_rule, beta="none", linear=False),
    "generalised_delta": Rule(
        generalised_delta_rule, "removal", beta="none", decay="feature", offered=False
    ),
}
_RECORDS: dict[UpdateRule, Rule] = {rule.apply: rule for rule in UPDATE_RULES.values()}


def rule_of(rule: UpdateRule) -> Rule:
    """The record itself, or that of a function; one outside ``UPDATE_RULES`` has no form."""
    return rule if isinstance(rule, Rule) else _RECORDS.get(rule) or Rule(rule)


def beta_of(rule: Rule, write: Write) -> Float[Tensor, "*BT H 1"] | None:
    """The scale of the addition in the form of a rule."""
    match rule.beta:
        case "none" | "gates":
            return None
        case "given":
            return write.beta
        case "implicit":
            return implicit_beta(write)
        case "exact":
            return exact_beta(write)
