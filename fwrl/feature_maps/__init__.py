"""Feature maps: how a projected key or query becomes an address in the fast weights.

A feature map is a function of the last axis alone, so that one time never sees another; its record
in ``FEATURE_MAPS`` says all that others know of it. Those of ``fwrl.feature_maps.random`` hold
numbers: their random directions, saved with the module.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from fwrl.config import ConfigError
from fwrl.feature_maps.random import (
    Directions,
    RandomFeatures,
    favor,
    favor_hyperbolic,
    favor_relu,
    favor_trigonometric,
)
from fwrl.state import at_least_float32

Normalisation = Literal["sum", "l2", "none"]
# Some also take the options of the map.
Function = Callable[..., Tensor]

# Keeps both normalisations defined for features that are all zero.
EPSILON = 1e-6


def elu_plus_one(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Smooth positive features (Katharopoulos et al. 2020)."""
    return F.elu(x) + 1.0


def dpfp(x: Float[Tensor, "*B K"], nu: int = 1) -> Float[Tensor, "*B M"]:
    """Deterministic parameter-free projection to M = 2 * nu * K features (Schlag et al. 2021a).

    Each feature is the product of two half-axes, so it is zero unless ``x`` points along both:
    keys in different orthants get addresses that overlap little. All features can be zero.

    Args:
        x: Key or query of one head.
        nu: How many shifts pair the half-axes. In [1, K - 1]: shift K pairs each axis with its own
            negative, which is always zero, and larger shifts repeat the products of smaller ones.
    """
    # a compiler fuses the formula by itself
    return _formula(x, nu) if torch.compiler.is_compiling() else _Products.apply(x, nu)


def _formula(x: Float[Tensor, "*B K"], nu: int) -> Float[Tensor, "*B M"]:
    half_axes = torch.cat([x, -x], dim=-1).relu()
    pairs = [half_axes * half_axes.roll(shift, dims=-1) for shift in range(1, nu + 1)]
    return torch.cat(pairs, dim=-1)


class _Products(torch.autograd.Function):
    """The same without copies for the shifts: each is a view of longer half-axes."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, nu: int) -> Tensor:
        *batch, size = x.shape
        # the last half-axes are repeated before the first one
        turned = x.new_empty(*batch, nu + 2 * size)
        half_axes = turned[..., nu:]
        torch.clamp_min(x, 0, out=half_axes[..., :size])
        torch.clamp_min(-x, 0, out=half_axes[..., size:])
        turned[..., :nu] = turned[..., -nu:]
        pairs = x.new_empty(*batch, nu, 2 * size)
        for pair, shifted in zip(pairs.unbind(-2), _shifts(turned, nu), strict=True):
            torch.mul(half_axes, shifted, out=pair)
        ctx.save_for_backward(turned)
        ctx.nu = nu
        return pairs.flatten(-2)

    @staticmethod
    @override
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Tensor, None]:
        (grad,), (turned,) = grad_outputs, ctx.saved_tensors
        nu = ctx.nu
        half_axes, to_turned = turned[..., nu:], torch.zeros_like(turned)
        to_half_axes = to_turned[..., nu:]
        to_pairs = grad.unflatten(-1, (nu, -1)).unbind(-2)
        both = zip(to_pairs, _shifts(turned, nu), _shifts(to_turned, nu), strict=True)
        for to_pair, shifted, to_shifted in both:
            to_half_axes.addcmul_(to_pair, shifted)
            to_shifted.addcmul_(to_pair, half_axes)
        to_turned[..., -nu:] += to_turned[..., :nu]
        to_half_axes.mul_(half_axes > 0)
        positive, negative = to_half_axes.chunk(2, dim=-1)
        return positive - negative, None


def _shifts(turned: Float[Tensor, "*B L"], nu: int) -> list[Float[Tensor, "*B M"]]:
    """The half-axes that each shift puts beside the unshifted ones."""
    length = turned.shape[-1] - nu
    return [turned[..., nu - shift : nu - shift + length] for shift in range(1, nu + 1)]


def relu(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Sparse features, never negative (Kasai et al. 2021)."""
    return F.relu(x)


def silu(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Smooth features that can be slightly negative (Yang et al. 2024a)."""
    return F.silu(x)


def tanh(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Features between -1 and 1 (Schlag et al. 2021b)."""
    return x.tanh()


def softmax(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Positive features that compete and sum to 1 (Irie et al. 2021)."""
    return x.softmax(dim=-1)


def identity(x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """The projection unchanged."""
    return x


class FeatureOptions(NamedTuple):
    """The settings of those feature maps that have any."""

    key_size: int
    # shifts of ``dpfp``
    nu: int = 1
    # the rest is for random features: the number of directions, and how they are drawn
    num_features: int = 64
    directions: Directions = "orthogonal"
    # scales by K ** -0.25, so that softmax attention with its usual scale is estimated
    scale_inputs: bool = True
    # updates between two draws; 0 keeps the first
    redraw_every: int = 0


def _plain(function: Function, _options: FeatureOptions, _normalised: bool) -> Function:
    return function


def _with_shifts(function: Function, options: FeatureOptions, _normalised: bool) -> Function:
    if options.nu >= options.key_size:
        raise ConfigError(
            f"dpfp: nu is {options.nu}, but shifts of the key size and more add nothing; "
            f"use nu below {options.key_size}"
        )
    return partial(function, nu=options.nu)


def _with_directions(function: Function, options: FeatureOptions, normalised: bool) -> Function:
    return RandomFeatures(
        function,
        options.key_size,
        options.num_features,
        directions=options.directions,
        scale_inputs=options.scale_inputs,
        redraw_every=options.redraw_every,
        normalised=normalised,
    )


class Map(NamedTuple):
    """A feature map as its function, and what others need to know of it."""

    apply: Function
    # features can be negative: neither their sum nor a product of two of them can be a divisor
    signed: bool = False
    # binds the options of the function, and whether its features are normalised afterwards
    configure: Callable[[Function, FeatureOptions, bool], Function] = _plain


FEATURE_MAPS: dict[str, Map] = {
    "identity": Map(identity, signed=True),
    "elu_plus_one": Map(elu_plus_one),
    "relu": Map(relu),
    "silu": Map(silu, signed=True),
    "tanh": Map(tanh, signed=True),
    "softmax": Map(softmax),
    "dpfp": Map(dpfp, configure=_with_shifts),
    "favor": Map(favor, configure=_with_directions),
    "favor_hyperbolic": Map(favor_hyperbolic, configure=_with_directions),
    "favor_trigonometric": Map(favor_trigonometric, signed=True, configure=_with_directions),
    "favor_relu": Map(favor_relu, configure=_with_directions),
}


def normalise(x: Float[Tensor, "*B M"], how: Normalisation) -> Float[Tensor, "*B M"]:
    """Features whose sum (``sum``) or whose length (``l2``) is 1; all-zero features stay zero."""
    if how == "sum":
        return x * x.sum(dim=-1, keepdim=True).clamp_min(EPSILON).reciprocal()
    if how == "l2":
        return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + EPSILON)
    return x


class FeatureMap(nn.Module):
    """One of ``FEATURE_MAPS`` and the normalisation of its features, in float32 or more."""

    def __init__(self, name: str, options: FeatureOptions, how: Normalisation) -> None:
        super().__init__()
        entry = FEATURE_MAPS[name]
        self.features = entry.configure(entry.apply, options, how != "none")
        self.how: Normalisation = how
        self.size = self.features(torch.zeros(options.key_size)).numel()

    @override
    def forward(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B M"]:
        return normalise(self.features(at_least_float32(x)), self.how)
