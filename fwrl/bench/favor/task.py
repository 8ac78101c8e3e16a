"""The errors of random features as estimates of a kernel, and of softmax attention.

After the approximation errors of Choromanski et al. (2021). The features are those of
``fwrl.feature_maps.random``; attention is not causal here: every query sees every key.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from fwrl.feature_maps import FEATURE_MAPS
from fwrl.feature_maps.random import Directions, RandomFeatures, random_directions

# Queries, keys and values of one sequence.
Attended = Float[Tensor, "3 T K"]
# Pairs of vectors x and y, whose kernel is estimated.
Pairs = Float[Tensor, "2 pairs K"]
# Directions drawn and used at once: bounds the memory in use, without influence on the result.
DIRECTIONS_AT_ONCE = 2**16


def attention_inputs(
    length: int, size: int, scale: float, generator: torch.Generator
) -> Float[Tensor, "3 T K"]:
    """Normal queries and keys of standard deviation ``scale``, normal values of 1, in float64."""
    query, key, value = torch.randn(3, length, size, generator=generator, dtype=torch.double)
    return torch.stack([scale * query, scale * key, value])


def softmax_attention(inputs: Attended) -> Float[Tensor, "T K"]:
    """Exact attention, the quantity to estimate; logits are divided by sqrt(K)."""
    query, key, value = (each.unsqueeze(0) for each in inputs)
    return F.scaled_dot_product_attention(query, key, value).squeeze(0)


def linear_attention(
    query: Float[Tensor, "T M"], key: Float[Tensor, "T M"], value: Float[Tensor, "T V"]
) -> Float[Tensor, "T V"]:
    """Attention whose weights are products of features, over their sum; linear in the length."""
    return (query @ (key.T @ value)) / (query @ key.sum(dim=0)).unsqueeze(-1)


def attention_error(
    features: RandomFeatures, inputs: Attended, exact: Float[Tensor, "T K"]
) -> float:
    """The mean squared difference from exact attention; features must scale their inputs."""
    query, key, value = inputs
    estimate = linear_attention(features(query), features(key), value)
    return (estimate - exact).square().mean().item()


def pairs_at(
    cosines: Float[Tensor, " pairs"], length: float, size: int
) -> Float[Tensor, "2 pairs K"]:
    """Two vectors of this length for each angle; neither lies along an axis."""
    along = torch.full((size,), size**-0.5, dtype=torch.double)
    aside = torch.linspace(-1, 1, size, dtype=torch.double)
    aside = aside / aside.norm()
    cosines = cosines.double().unsqueeze(-1)
    turned = cosines * along + (1 - cosines.square()).sqrt() * aside
    return length * torch.stack([along.expand_as(turned), turned])


def kernel_error(
    name: str, kind: Directions, pairs: Pairs, count: int, draws: int, generator: torch.Generator
) -> Float[Tensor, " pairs"]:
    """The mean squared error of many estimates of ``exp(x . y)``.

    Args:
        name: A random feature map, one of ``FEATURE_MAPS``.
        kind: The way to draw directions.
        pairs: All pairs share the directions.
        count: Directions in each estimate.
        draws: Estimates for each pair.
        generator: Draws the directions.
    """
    size = pairs.shape[-1]
    # whole blocks, so that the directions of two estimates are independent
    block = -(-count // size) * size
    total = torch.zeros(pairs.shape[1]).to(pairs)
    for first in range(0, draws, at_once := max(1, DIRECTIONS_AT_ONCE // block)):
        drawn = min(at_once, draws - first)
        rows = random_directions(size, drawn * block, kind, generator).to(pairs)
        rows = rows.unflatten(0, (drawn, block))[:, :count].flatten(0, 1)
        x, y = FEATURE_MAPS[name].apply(pairs, rows, False)
        # one estimate averages ``count`` of the directions, all features average all of them
        estimates = (x * y).unflatten(-1, (-1, drawn, count)).sum(dim=(1, 3)) * drawn
        total += (estimates - kernel(pairs).unsqueeze(-1)).square().sum(dim=-1)
    return total / draws


def kernel(pairs: Pairs) -> Float[Tensor, " pairs"]:
    """The kernel ``exp(x . y)``, the quantity to estimate."""
    x, y = pairs
    return (x * y).sum(dim=-1).exp()


def expected_kernel_error(name: str, pairs: Pairs, count: int) -> Float[Tensor, " pairs"]:
    """The mean of ``kernel_error`` for independent directions (Choromanski et al. 2021).

    Raises:
        ValueError: For features that do not estimate ``exp(x . y)``.
    """
    x, y = pairs
    together, apart = (z.square().sum(dim=-1) for z in (x + y, x - y))
    positive = together.exp() * kernel(pairs).square() * -torch.expm1(-together) / count
    match name:
        case "favor":
            return positive
        case "favor_hyperbolic":
            return positive * -torch.expm1(-together) / 2
        case "favor_trigonometric":
            waves = together.exp() / kernel(pairs).square() / (2 * count)
            return waves * torch.expm1(-apart).square()
        case _:
            raise ValueError(f"{name} does not estimate exp(x . y)")


def orthogonal_bound(pairs: Pairs, count: int) -> Float[Tensor, " pairs"]:
    """An upper bound on the error of ``favor`` with up to K orthogonal directions.

    Choromanski et al. (2021).
    """
    size = pairs.shape[-1]
    far = (-pairs.square().sum(dim=(0, 2)) / 2).exp()
    gain = 2 * (count - 1) / (count * (size + 2)) * (kernel(pairs) - far).square()
    return expected_kernel_error("favor", pairs, count) - gain
