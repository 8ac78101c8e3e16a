"""Attention normalisation: each read is divided by the sum of the weights that made it.

The running sum of keys, ``z``, is the last of the W = V + 1 columns of the state.
Features must not be negative, else what is divided by can be zero or change its sign.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels import scan
from fwrl.update_rules import UpdateRule, Write, delta_rule, rule_of, sum_rule

# Divisors below it come from keys that share no feature with the past.
EPSILON = 1e-6


def normalised_scan(
    rule: UpdateRule,
    state: Float[Tensor, "B H K W"],
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    kernel: str = "auto",
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K W"]]:
    """``scan`` with attention normalisation; episodes begin with zeros.

    Sums get it by a value that is always one (Katharopoulos et al. 2020). The delta rule also
    divides what it removes by ``z . key`` of the past (Schlag et al. 2021a, section 4.2).
    """
    if rule_of(rule).form == "error":
        return _normalised_delta(state, query, write, starts, kernel)
    one = torch.ones_like(write.value[..., :1])
    with_one = write._replace(value=torch.cat([write.value, one], dim=-1))
    read, state = scan(rule, state, query, with_one, starts, kernel=kernel)
    return read[..., :-1] / read[..., -1:].clamp_min(EPSILON), state


def _normalised_delta(
    state: Float[Tensor, "B H K W"],
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"],
    kernel: str,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K W"]]:
    """A plain delta rule with ``key / divisor`` and ``beta * divisor``: no loop of its own."""
    assert write.beta is not None, "the delta rule needs beta"
    weights, key_sum = state[..., :-1], state[..., -1:]
    past = _before(write.key, starts)
    one = torch.ones_like(write.beta)
    seen, _ = scan(sum_rule, key_sum, write.key, Write(past, one), starts, kernel=kernel)
    # what shares nothing with the past removes nothing, whatever it is divided by
    divisor = torch.where(seen > EPSILON, seen, 1.0)
    rewritten = write._replace(key=write.key / divisor, beta=write.beta * divisor)
    values, weights = scan(delta_rule, weights, query, rewritten, starts, kernel=kernel)
    total, key_sum = scan(sum_rule, key_sum, query, Write(write.key, one), starts, kernel=kernel)
    return values / total.clamp_min(EPSILON), torch.cat([weights, key_sum], dim=-1)


def _before(key: Float[Tensor, "B T H K"], starts: Bool[Tensor, "B T"]) -> Float[Tensor, "B T H K"]:
    """The key of the time before; zero where there is none in the episode."""
    shifted = torch.cat([torch.zeros_like(key[:, :1]), key[:, :-1]], dim=1)
    return torch.where(starts[:, :, None, None], 0.0, shifted)
