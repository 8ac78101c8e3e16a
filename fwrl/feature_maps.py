"""Feature maps: how a projected key or query becomes an address in the fast weights.

A feature map is a function of the last axis alone, so that one time never sees another. Only
``favor`` holds numbers: its random projection is a buffer, saved with the module.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import ConfigError
from fwrl.precision import at_least_float32, without_autocast

Normalisation = Literal["sum", "l2", "none"]

# Keeps both normalisations defined for features that are all zero.
EPSILON = 1e-6


def elu_plus_one(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Smooth positive features (Katharopoulos et al. 2020)."""
    return F.elu(x) + 1.0


def dpfp(x: Float[Tensor, "*B K"], nu: int = 1) -> Float[Tensor, "*B M"]:
    """Deterministic parameter-free projection to M = 2 * nu * K features (Schlag et al. 2021).

    Each feature is the product of two half-axes, so it is zero unless ``x`` points along both:
    keys in different orthants get addresses that overlap little. All features can be zero.

    Args:
        x: Key or query of one head.
        nu: How many shifts pair the half-axes. In [1, K - 1]: shift K pairs each axis with its own
            negative, which is always zero, and larger shifts repeat the products of smaller ones.
    """
    half_axes = torch.cat([x, -x], dim=-1).relu()
    pairs = [half_axes * half_axes.roll(shift, dims=-1) for shift in range(1, nu + 1)]
    return torch.cat(pairs, dim=-1)


def relu(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Sparse features, never negative (Kasai et al. 2021)."""
    return F.relu(x)


def silu(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Smooth features that can be slightly negative (Yang et al. 2024)."""
    return F.silu(x)


def softmax(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Positive features that compete and sum to 1 (Irie et al. 2021)."""
    return x.softmax(dim=-1)


def identity(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """The projection itself."""
    return x


class Favor(nn.Module):
    """Positive orthogonal random features, FAVOR+ (Choromanski et al. 2021).

    The product of two feature vectors estimates ``exp(x . y / sqrt(K))``, the weight of softmax
    attention, without bias.

    Note:
        The usual subtraction of a maximum over time is left out: it looks into the future. Without
        it nothing overflows for K up to about 128, because for a direction ``w`` the exponent
        ``w . x - |x|^2 / 2`` never exceeds ``|w|^2 / 2``, which is about K / 2.
    """

    projection: Tensor

    def __init__(self, key_size: int, num_features: int) -> None:
        super().__init__()
        projection = orthogonal_directions(key_size, num_features)
        self.register_buffer("projection", projection)

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """Take new random directions; what was stored under the old ones is not found again."""
        num_features, key_size = self.projection.shape
        self.projection.copy_(orthogonal_directions(key_size, num_features, generator))

    @override
    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B M"]:
        num_features, key_size = self.projection.shape
        x = x * key_size**-0.25
        with without_autocast(x.device):
            along = F.linear(x, self.projection.to(x.dtype))
        exponent = along - x.square().sum(dim=-1, keepdim=True) / 2
        return exponent.exp() / math.sqrt(num_features)


def orthogonal_directions(
    key_size: int, num_features: int, generator: torch.Generator | None = None
) -> Float[Tensor, "M K"]:
    """Random rows, each distributed as a standard normal vector, orthogonal in blocks of K rows."""
    blocks: list[Tensor] = []
    for first in range(0, num_features, key_size):
        gaussian = torch.randn(key_size, key_size, generator=generator)
        rotation, triangle = torch.linalg.qr(gaussian)
        # the decomposition fixes signs by a convention of its own; without this the rows lean to
        # one side and the estimate of the kernel is biased
        rotation = rotation * triangle.diagonal().sign()
        blocks.append(rotation.T[: num_features - first])
    norms = torch.randn(num_features, key_size, generator=generator).norm(dim=-1, keepdim=True)
    return torch.cat(blocks) * norms


class FeatureOptions(NamedTuple):
    """What some feature maps need to know beside their input."""

    key_size: int
    # shifts of ``dpfp``
    nu: int = 1
    # random directions of ``favor``
    num_features: int = 64


FEATURE_MAPS: dict[str, Callable[..., Any]] = {
    "identity": identity,
    "elu_plus_one": elu_plus_one,
    "relu": relu,
    "silu": silu,
    "softmax": softmax,
    "dpfp": dpfp,
    "favor": Favor,
}

# Features that can be negative: neither their sum nor a product of two of them can be a divisor.
SIGNED = frozenset({"identity", "silu"})


def normalise(x: Float[Tensor, "*B M"], how: Normalisation) -> Float[Tensor, "*B M"]:
    """Features whose sum (``sum``) or whose length (``l2``) is 1; all-zero features stay zero."""
    if how == "sum":
        return x / x.sum(dim=-1, keepdim=True).clamp_min(EPSILON)
    if how == "l2":
        return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + EPSILON)
    return x


class FeatureMap(nn.Module):
    """One of ``FEATURE_MAPS`` and the normalisation of what it makes, in float32 or more."""

    def __init__(self, name: str, options: FeatureOptions, how: Normalisation) -> None:
        super().__init__()
        self.features = _with_options(name, options)
        self.how: Normalisation = how
        self.size = self.features(torch.zeros(options.key_size)).numel()

    @override
    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B M"]:
        return normalise(self.features(at_least_float32(x)), self.how)


def _with_options(name: str, options: FeatureOptions) -> Callable[[Tensor], Tensor]:
    match name:
        case "dpfp":
            if options.nu >= options.key_size:
                raise ConfigError(
                    f"dpfp: nu is {options.nu}, but shifts of the key size and more add nothing; "
                    f"use nu below {options.key_size}"
                )
            return partial(dpfp, nu=options.nu)
        case "favor":
            return Favor(options.key_size, options.num_features)
        case _:
            return FEATURE_MAPS[name]
