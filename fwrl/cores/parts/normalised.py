"""Attention normalisation: each read is divided by the sum of its attention weights.

The running sum of keys, ``z``, is the last of the W = V + 1 columns of the state.
Features must not be negative, else the divisor can be zero or change its sign.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.cores.parts.layers import previous
from fwrl.kernels import scan
from fwrl.update_rules import UpdateRule, Write, delta_rule, rule_of, sum_rule

# Divisors below this come from keys that share no feature with the past.
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

    Sums get the divisor from a value that is always one (Katharopoulos et al. 2020). The delta rule
    also divides the old value that it removes by ``z . key`` of the past (Schlag et al. 2021a,
    section 4.2).
    """
    if rule_of(rule).form != "error":
        one = torch.ones_like(write.value[..., :1])
        with_one = write._replace(value=torch.cat([write.value, one], dim=-1))
        read, state = scan(rule, state, query, with_one, starts, kernel=kernel)
        return read[..., :-1] / read[..., -1:].clamp_min(EPSILON), state
    # a plain delta rule with ``key / divisor`` and ``beta * divisor``: no loop of its own
    weights, key_sum = state[..., :-1], state[..., -1:]
    scaled = normalised_write(key_sum, write, starts, kernel)
    values, weights = scan(delta_rule, weights, query, scaled, starts, kernel=kernel)
    keys = Write(write.key, torch.ones_like(write.key[..., :1]))
    total, key_sum = scan(sum_rule, key_sum, query, keys, starts, kernel=kernel)
    return values / total.clamp_min(EPSILON), torch.cat([weights, key_sum], dim=-1)


def normalised_write(
    key_sum: Float[Tensor, "B H K 1"], write: Write, starts: Bool[Tensor, "B T"], kernel: str
) -> Write:
    """The write that a plain delta rule needs to divide what it removes by ``z . key``."""
    assert write.beta is not None, "the delta rule needs beta"
    past = previous(write.key, torch.zeros_like(write.key[:, 0]), starts)
    keys = Write(past, torch.ones_like(write.beta))
    seen, _ = scan(sum_rule, key_sum, write.key, keys, starts, kernel=kernel)
    # a key that shares no feature with the past removes nothing, whatever it is divided by
    divisor = torch.where(seen > EPSILON, seen, 1.0)
    return write._replace(key=write.key / divisor, beta=write.beta * divisor)
